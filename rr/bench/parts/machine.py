"""Part `machine`: what the processor can do at best, for the roofline of docs/performance.md."""

import torch

from rr.bench.measure import Contestant, Part, alternate, row
from rr.bench.settings import Settings

_SIDE = 3072
_VALUES = 1 << 26  # 256 MiB of float32, far beyond any cache


def run(settings: Settings) -> Part:
    """Floating-point operations of a large matrix product, and bytes read and written by a copy."""
    part = Part(notes=["float32; a copy's bytes count twice, read and written"])
    side, values = (64, 1 << 12) if settings.small else (_SIDE, _VALUES)
    left, right, source = torch.randn(side, side), torch.randn(side, side), torch.randn(values)
    product, copy = torch.empty(side, side), torch.empty(values)
    for threads in settings.threads_or(1, 2):
        for case, unit, amount, contestant in (
            (f"matrix product, {side:,} square", "FLOP", 2 * side**3, lambda: torch.mm(left, right, out=product)),
            (f"copy, {values * 4 / 2**20:,.0f} MiB", "bytes", 8 * values, lambda: copy.copy_(source)),
        ):
            torch.set_num_threads(threads)
            runs = alternate([Contestant(case, contestant, amount)], settings.few(10))
            part.rows.append(row(case, unit, threads, [("torch", amount)], runs))
    return part
