"""A process's peak memory while it does one thing, as Linux counts it."""

import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(work: Callable[[], object]) -> float | None:
    """MiB by which the resident memory rose at most during `work`; None where the system does not tell."""
    gc.collect()
    try:
        _CLEAR.write_text("5")  # sets the peak back to the present
        before = _field("VmRSS")
        work()
        return (_field("VmHWM") - before) / 1024
    except OSError:
        return None


def _field(name: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
