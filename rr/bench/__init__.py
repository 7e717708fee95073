"""`rr bench`: the product against the paper's way of doing the same, part by part, on the machine at hand.

Nothing is decided by these times: they are printed with their spread, the load and the versions, for a reader to judge.
That both sides compute the same is shown by the tests, not here.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rr.bench.settings import Settings
from rr.errors import UserError

SCHEMA = "rr-bench-1"
PARTS = ("views", "head", "backbone", "loader", "training", "evaluation", "startup", "machine", "gpu")


def run(
    parts: Sequence[str] = (),
    *,
    as_json: bool = False,
    steps: int = 20,
    threads: Sequence[int] | None = None,
    data: Path | None = None,
    small: bool = False,
) -> str:
    """Measure `parts`, all of them when none is named; return the findings as tables or as JSON, for printing.

    `threads` replaces each part's own thread counts, `data` is a converted data set's folder for the parts that read
    pictures, `small` takes sizes that only show that everything runs. What is being measured is said on stderr.
    Raises UserError for an unknown part, impossible numbers, or a folder without `train.beton`.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise UserError(f"bench: no part is called {', '.join(unknown)}; known: {', '.join(PARTS)}")
    if steps < 1:
        raise UserError(f"--steps {steps}: at least 1 is needed")
    _check_threads(threads)
    if data is not None:
        from rr.bench.dataset import beton_of

        beton_of(data)
    settings = Settings(steps, tuple(threads) if threads else None, data, small)
    found = _findings([name for name in PARTS if name in (parts or PARTS)], settings)
    if as_json:
        return json.dumps(found, indent=1)
    from rr.bench.table import render

    return render(found)


def _findings(parts: Sequence[str], settings: Settings) -> dict[str, Any]:
    """The findings as JSON values."""
    # Read when the OpenMP library loads; both sides have it. As `rr` itself sets it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rr.runtime.machine import machine

    before, measured = _load(), {}
    for name in parts:
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        part_before, clock = _load(), time.monotonic()
        part = importlib.import_module(f"rr.bench.{name}").run(settings)
        load = {"before": part_before, "after": _load()}
        measured[name] = {**asdict(part), "seconds": round(time.monotonic() - clock, 1), "load": load}
    return {
        "schema": SCHEMA,
        "settings": {**asdict(settings), "data": str(settings.data) if settings.data else None},
        "machine": machine(),
        "load": {"before": before, "after": _load()},
        "parts": measured,
    }


def _load() -> list[float]:
    """The system's load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _check_threads(threads: Sequence[int] | None) -> None:
    cores = os.cpu_count() or 1
    for count in threads or ():
        if not 1 <= count <= cores:
            raise UserError(f"--threads {count}: this machine has {cores} cores; give 1 to {cores}")
