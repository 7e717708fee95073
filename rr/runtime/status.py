"""What runs in this folder, and how far it is: a small file for each stage run, which `rr status` shows.

The file appears when a stage begins, is renewed with its progress, and goes when the stage has ended well. So one that
stays tells of a stage that failed, was interrupted, or was killed.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rr import paths
from rr.errors import UserError, explain_os_error
from rr.runtime.signals import ENDED

SECONDS_BETWEEN_BEATS = 3.0

_current: dict[str, Any] | None = None  # the stage run of this process: it makes one at a time


@contextmanager
def showing(stage: str, folder: Path) -> Iterator[None]:
    """Show the run of `stage` that makes `folder` while the body runs; afterwards only when the body has failed."""
    global _current
    _current = {
        "stage": stage,
        "names": list(folder.parts[2:]),  # behind data/raw, runs/pretrain and the like
        "pid": os.getpid(),
        "born": _birth(os.getpid()),
        "host": socket.gethostname(),
    }
    _write(_current)
    try:
        yield
    except BaseException as error:
        _write(_current | {"error": _told(error), "interrupted": not isinstance(error, Exception)})
        raise
    else:
        with suppress(OSError):
            paths.status(_current["stage"], _current["names"]).unlink(missing_ok=True)
    finally:
        _current = None


def beat(**progress: Any) -> None:
    """Renew the file of the stage that this process runs, if it runs one; `progress` are values that JSON knows."""
    if _current is not None:
        _current.update(progress)
        _write(_current)


def _write(content: dict[str, Any]) -> None:
    """Renew the file in one step, without waiting for the disk: it is worth nothing after a power cut."""
    target = paths.status(content["stage"], content["names"])
    temporary = target.with_name(f".{target.stem}.tmp.json")
    with suppress(OSError):  # no training ends because its progress cannot be shown
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content | {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}))
        os.replace(temporary, target)


def _told(error: BaseException) -> str:
    if isinstance(error, OSError):
        error = explain_os_error(error) or error
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return ENDED.get(error.code, f"ended with code {error.code}")
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def jobs() -> list[dict[str, Any]]:
    """Every stage run of this folder that has not ended well, as its file tells, and its `state`.

    running; stopped (its process is no more); interrupted (by a signal); failed (`error` says why);
    elsewhere (it began on another host, whose processes cannot be seen from here).
    """
    found = []
    for path in sorted(paths.STATUS.rglob("[!.]*.json")):
        names = path.relative_to(paths.STATUS).with_suffix("").parts
        try:
            job = {"stage": names[0], "names": list(names[1:])} | json.loads(path.read_bytes())
        except FileNotFoundError:
            continue  # it has just ended well
        except (ValueError, TypeError):
            job = {"stage": names[0], "names": list(names[1:])}  # a power cut left none of it
        found.append(job | {"state": _state(job)})
    return found


def _state(job: dict[str, Any]) -> str:
    if "error" in job:
        return "interrupted" if job.get("interrupted") else "failed"
    if job.get("host", socket.gethostname()) != socket.gethostname():
        return "elsewhere"
    return "running" if "pid" in job and _birth(job["pid"]) == job.get("born", "") else "stopped"


def _birth(pid: int) -> str | None:
    """When process `pid` began, in the kernel's ticks: a later one of the same number differs. None when it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def shown(as_json: bool) -> str:
    """The stage runs as a table for people, or as JSON for programs."""
    found = jobs()
    if as_json:
        return json.dumps(found, indent=1)
    if not found:
        return "status: nothing runs here, and nothing was interrupted"
    rows = [("stage", "of", "state", "done", "rate", "left", "seen", "")]
    for job in found:
        percent, rate, left = (job.get(key) for key in ("percent", "rate", "seconds_left"))
        rows.append(
            (
                job["stage"],
                " ".join(job["names"]),
                job["state"],
                "" if percent is None else f"{percent:.0f} %",
                f"{rate:,.0f} {job['unit']}/s" if rate else "",
                _duration(left) if left is not None and job["state"] in ("running", "elsewhere") else "",
                f"{_duration(_age(job['time']))} ago" if "time" in job else "",
                (job.get("error") or job.get("note") or "").partition("\n")[0],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _age(stamp: str) -> float:
    return max((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds(), 0.0)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
