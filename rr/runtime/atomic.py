"""Outputs appear whole or not at all: write beside the target, flush to the disk, rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it becomes `target`, on failure it is removed.

    The temporary name is fixed, so a killed process leaves at most one, which the next try overwrites. Where several
    processes may write the same target at once (`shared`), it also bears the process's number. Its ending is the
    target's own, for writers that choose a format by it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = f".{os.getpid()}" if shared else ""
    temporary = target.with_name(f".{target.stem}{writer}.tmp{target.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text to `target` in one step."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
