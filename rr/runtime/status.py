"""Track the stage runs in this folder in small files, which `rr status` reads.

A run's file is created when the run starts, updated with its progress, and deleted when the run succeeds. A file
that remains after its process has ended belongs to a run that failed, was interrupted, or was killed.
"""

import csv
import json
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rr import paths
from rr.errors import UserError, explain_error
from rr.runtime.formatting import format_count, format_duration, format_rate, format_table, utc_now
from rr.runtime.signals import EXIT_MESSAGES

SECONDS_BETWEEN_HEARTBEATS = 3.0

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 20  # characters

_current_run: dict[str, Any] | None = None  # a process has at most one stage run at a time
_lock = threading.Lock()  # needed because a thread of `rr.runtime.progress` sends heartbeats


@contextmanager
def track_run(stage: str, folder: Path) -> Iterator[None]:
    """Show a run of `stage` in `rr status` while the body runs, and afterward if the body fails.

    The run is named after the parts of its output folder: dataset, backbone and so on.
    """
    global _current_run
    _current_run = {
        "stage": stage,
        "names": list(folder.parts[2:]),  # without the first two parts, such as data/raw
        "folder": str(folder),
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
        "host": socket.gethostname(),
    }
    _write_run_file(_current_run)
    try:
        yield
    except BaseException as error:
        run = _end_heartbeats()
        _write_run_file(run | {"error": _error_message(error), "interrupted": not isinstance(error, Exception)})
        raise
    _end_heartbeats()
    forget_run(stage, folder)


def forget_run(stage: str, folder: Path) -> None:
    """Delete the status file of a run that is complete."""
    with suppress(OSError):
        paths.status_file(stage, folder.parts[2:]).unlink(missing_ok=True)


def _end_heartbeats() -> dict[str, Any]:
    """Make later calls to `heartbeat` ineffective, and return the current run."""
    global _current_run
    with _lock:
        run, _current_run = _current_run or {}, None
    return run


def heartbeat(**progress: Any) -> None:
    """Add JSON values that describe the progress to the status file of this process's stage run, if it has one."""
    with _lock:
        if _current_run is not None:
            _current_run.update(progress)
            _write_run_file(_current_run)


def _write_run_file(run: dict[str, Any]) -> None:
    """Write a run's file atomically, but do not flush it to disk, because it is useless after a power failure."""
    target = paths.status_file(run["stage"], run["names"])
    temporary = target.with_name(f".{target.stem}.tmp.json")
    with suppress(OSError):  # training must not fail because its progress cannot be written
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run | {"time": utc_now()})
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)


def _error_message(error: BaseException) -> str:
    error = explain_error(error) or error
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return EXIT_MESSAGES.get(error.code, f"exited with code {error.code}")
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def list_unfinished_runs() -> list[dict[str, Any]]:
    """Return the contents of the status files in this folder, each with an added `state` and `history`.

    The state is "running", "stopped" (the process no longer exists), "interrupted" (by a signal), "failed" (`error`
    contains the message), or "elsewhere" (started on another host, whose processes cannot be seen from here). The
    history has a row for each finished epoch of a pretraining run. A run is left out if its outputs have been replaced
    since it failed, for example by `dvc pull`.
    """
    runs = []
    for path in sorted(paths.STATUS_DIR.rglob("[!.]*.json")):
        stage, *names = path.relative_to(paths.STATUS_DIR).with_suffix("").parts
        run = {"stage": stage, "names": names}
        try:
            run = run | json.loads(path.read_bytes())
        except FileNotFoundError:
            continue  # the run has just succeeded
        except (ValueError, TypeError):
            pass  # the contents were lost in a power failure
        run["state"] = _run_state(run)
        if run["state"] == "running" or not _has_finished_since(path, run):
            runs.append(run | {"history": _read_history(run)})
    return runs


def _has_finished_since(status_file: Path, run: dict[str, Any]) -> bool:
    """Return whether the record of the run's outputs is newer than its status file."""
    try:
        record = paths.record_file(Path(run["folder"]))
        return record.stat().st_mtime_ns > status_file.stat().st_mtime_ns
    except (OSError, KeyError):
        return False


def _read_history(run: dict[str, Any]) -> list[dict[str, float]]:
    """Return the rows of the finished epochs of an unfinished pretraining run, without empty cells."""
    if run["stage"] != "pretrain":
        return []
    try:
        dataset, backbone, method, seed = run["names"]
        file = paths.unfinished_history(paths.PretrainPaths(dataset, backbone, method, int(seed)).checkpoint)
        rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (OSError, ValueError, TypeError):
        return []  # no epoch has finished yet, or the file is damaged


def _run_state(run: dict[str, Any]) -> str:
    if "error" in run:
        return "interrupted" if run.get("interrupted") else "failed"
    if run.get("host", socket.gethostname()) != socket.gethostname():
        return "elsewhere"
    return "running" if "pid" in run and _is_alive(run["pid"], run.get("start_ticks")) else "stopped"


def _is_alive(pid: Any, start_ticks: str | None) -> bool:
    """Return whether process `pid`, which started at `start_ticks`, still exists."""
    if type(pid) is not int or not 0 < pid < 2**31:  # the file is damaged
        return False
    if start_ticks is not None:
        return _start_ticks(pid) == start_ticks
    try:  # without /proc, a later process with the same id cannot be recognized
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _start_ticks(pid: int) -> str | None:
    """Return the start time of process `pid` in clock ticks, or None if it has ended or the system has no /proc.

    The start time identifies the process: a later process with the same id has a different start time.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def render_status(as_json: bool) -> str:
    """Return the stage runs as a plain-text table or as JSON.

    Raises:
        UserError: if the current folder is not a project, and no run has ever been started in it.
    """
    if not paths.PARAMS_FILE.is_file() and not paths.STATUS_DIR.is_dir():
        raise UserError(
            f"{Path.cwd()} is not a project (no {paths.PARAMS_FILE}): run rr status in the root folder of a project"
        )
    runs = list_unfinished_runs()
    if as_json:
        return json.dumps(runs, indent=1)
    if not runs:
        return "status: there are no unfinished runs in this folder"
    header = ("stage", "run", "state", "done", "rate", "left", "updated", "loss", "accuracy", "message")
    rows = list(map(_table_row, runs))
    # Leave out empty columns, such as the curves if no pretraining run is listed.
    used = [column for column in range(len(header)) if column < 4 or any(row[column] for row in rows)]
    return format_table([header[c] for c in used], [[row[c] for c in used] for row in rows], text_columns=len(used))


def _table_row(run: dict[str, Any]) -> tuple[str, ...]:
    percent, done, rate, left = (run.get(key) for key in ("percent", "done", "rate", "seconds_left"))
    unit = run.get("unit", "")
    count = format_count(done, unit) if done and unit else ""
    is_active = run["state"] in ("running", "elsewhere")
    return (
        run["stage"],
        " ".join(run["names"]),
        run["state"],
        count if percent is None else f"{math.floor(percent)}%",
        format_rate(rate, unit) if rate and is_active else "",
        format_duration(left) if left is not None and is_active else "",
        f"{format_duration(_seconds_since(run['time']))} ago" if "time" in run else "",
        *(_sparkline([row[name] for row in run["history"] if name in row]) for name in ("loss", "accuracy")),
        (run.get("error") or run.get("note") or "").partition("\n")[0],
    )


def _sparkline(values: list[float]) -> str:
    """Return a curve of block characters, scaled from the lowest to the highest value, followed by the last value.

    If there are more values than characters, each character shows the mean of several values.
    """
    if not values:
        return ""
    width = min(len(values), _CURVE_WIDTH)
    chunks = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    means = [sum(chunk) / len(chunk) for chunk in chunks]
    low, height = min(means), max(means) - min(means)
    heights = [(mean - low) / height if height else 0.0 for mean in means]
    blocks = "".join(_BLOCKS[round(fraction * (len(_BLOCKS) - 1))] for fraction in heights)
    return f"{blocks} {values[-1]:.4g}"


def _seconds_since(timestamp: str) -> float:
    return max((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds(), 0.0)
