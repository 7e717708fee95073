"""Measure the peak memory of a function call with the counters that Linux provides."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PROBE_MIB = 64  # large enough that malloc cannot reuse freed memory for it


def measure_peak_mib(function: Callable[[], object]) -> float | None:
    """Call `function` and return the peak increase in resident memory in MiB.

    Return None if the system does not report the peak.
    """
    gc.collect()
    try:
        # Some sandboxes report the current memory as the peak, so an allocation of a known size is measured first.
        probe = _measure_rise_mib(lambda: np.ones(_PROBE_MIB << 20, np.uint8))
        return _measure_rise_mib(function) if probe > _PROBE_MIB / 2 else None
    except OSError:
        return None


def measure_memory_in_new_process(part: str, *arguments: object) -> float | None:
    """Call a benchmark part's `measure_memory` function in a new process and return its result."""
    call = f"measure_memory(*{arguments!r})"
    code = f"import json; from rr.bench.parts.{part} import measure_memory; print(json.dumps({call}))"
    return json.loads(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)


def _measure_rise_mib(function: Callable[[], object]) -> float:
    _CLEAR.write_text("5")  # resets the peak to the current value
    before = _read_kib("VmRSS")
    function()
    return (_read_kib("VmHWM") - before) / 1024


def _read_kib(field: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
