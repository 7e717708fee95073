"""Write files atomically: write a temporary file in the same folder, flush it to disk, then rename it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path, *, concurrent: bool = False) -> Iterator[Path]:
    """Yield a temporary path, which replaces `target` if the body succeeds and is deleted if it fails.

    The temporary file has a fixed name, so a killed process leaves at most one behind, and the next attempt overwrites
    it. It has the suffix of `target`, because some writers choose the file format by the suffix.

    Args:
        target: file to create or replace. Missing parent folders are created.
        concurrent: whether to add the process id to the temporary name, so that several processes can write `target` at
            the same time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    process = f".{os.getpid()}" if concurrent else ""
    temporary = target.with_name(f".{target.stem}{process}.tmp{target.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text to `target` atomically."""
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
