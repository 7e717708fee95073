"""`rr bench`: compare how fast rr and a reference implementation of the paper run on this machine.

The output shows the times with their quartiles, the machine's load and the library versions. The benchmark does not
check whether both implementations compute the same results; the tests do.
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
from rr.runtime.progress import Progress

SCHEMA = "rr-bench-2"
PARTS = (
    "views", "head", "backbone", "loader", "training", "busy", "evaluation", "startup", "machine", "scaling", "gpu",
)  # fmt: skip


def run_benchmark(
    parts: Sequence[str] = (),
    *,
    as_json: bool = False,
    steps: int = 20,
    threads: Sequence[int] | None = None,
    data: Path | None = None,
    smoke_test: bool = False,
) -> str:
    """Run some or all parts of the benchmark and return the results as tables or JSON.

    The name of each part is printed to stderr when the part starts.

    Args:
        parts: names of the parts to run. By default, all parts are run.
        as_json: whether to return JSON instead of tables.
        steps: number of timed repeats of each case.
        threads: thread counts to use. By default, each part uses its own.
        data: folder of a converted dataset for the parts that read images. By default, images are generated.
        smoke_test: whether to use tiny sizes just to check that everything runs. The times are then meaningless.

    Raises:
        UserError: if a part is unknown, if a number is out of range, or if the folder contains no `train.beton`.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise UserError(f"unknown benchmark part: {unknown[0]}. Choose from {', '.join(PARTS)}")
    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    cores = os.cpu_count() or 1
    for count in threads or ():
        if not 1 <= count <= cores:
            raise UserError(f"--threads must be from 1 to {cores} (the number of cores of this machine), got {count}")
    if data is not None:
        from rr.bench.dataset import find_train_beton

        find_train_beton(data)
    settings = Settings(steps, tuple(threads) if threads else None, data, smoke_test)
    results = _run_parts([name for name in PARTS if name in (parts or PARTS)], settings)
    if as_json:
        return json.dumps(results, indent=1)
    from rr.bench.table import format_results

    return format_results(results)


def _run_parts(parts: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Run the parts and return the results as JSON-serializable values."""
    # The OpenMP library reads this variable when it is loaded. Both implementations' processes inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rr.runtime.machine import describe_machine

    load_before, results = _get_load_averages(), {}
    with Progress("bench", len(parts), "parts", use_bar=False) as progress:
        for name in parts:
            print(f"bench: running the {name} part …", file=sys.stderr, flush=True)
            progress.advance(0, f"part {name}")
            part_load_before, start = _get_load_averages(), time.monotonic()
            result = importlib.import_module(f"rr.bench.parts.{name}").run(settings)
            load = {"before": part_load_before, "after": _get_load_averages()}
            results[name] = {**asdict(result), "seconds": round(time.monotonic() - start, 1), "load": load}
            progress.advance(1, "")
    return {
        "schema": SCHEMA,
        "settings": {**asdict(settings), "data": str(settings.data) if settings.data else None},
        "machine": describe_machine(),
        "load": {"before": load_before, "after": _get_load_averages()},
        "parts": results,
    }


def _get_load_averages() -> list[float]:
    """Return the system's load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
