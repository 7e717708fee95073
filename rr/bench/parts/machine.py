"""The `machine` part: the processor's peak performance, for the roofline in docs/performance.md."""

import torch

from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import Settings

_MATRIX_SIZE = 3072
_COPY_VALUES = 1 << 26  # 256 MiB of float32, more than the cache of most processors


def run(settings: Settings) -> PartResult:
    """Measure the speed of a matrix product (FLOP/s) and of a copy in memory (bytes/s)."""
    result = PartResult(
        notes=["All values are float32. The bytes of a copy count twice, because each byte is read and written."]
    )
    size, values = (64, 1 << 12) if settings.smoke_test else (_MATRIX_SIZE, _COPY_VALUES)
    left, right, source = torch.randn(size, size), torch.randn(size, size), torch.randn(values)
    product, target = torch.empty(size, size), torch.empty(values)
    for threads in settings.choose_thread_counts(1, 2):
        for case, unit, num_units, function in (
            (f"matrix product, {size:,} × {size:,}", "FLOP", 2 * size**3, lambda: torch.mm(left, right, out=product)),
            (f"copy, {values * 4 / 2**20:,.0f} MiB", "bytes", 8 * values, lambda: target.copy_(source)),
        ):
            candidate = Candidate("torch", function, num_units)
            result.cases.append(compare_candidates(case, unit, threads, [candidate], min(settings.steps, 10)))
    return result
