"""Write files atomically: write a temporary file in the same folder, flush it to disk, then rename it."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Maps each target to its complete temporary file, or to None if that file has not been written yet.
_postponed: dict[Path, Path | None] = {}


@contextmanager
def replace_together(targets: Iterable[Path]) -> Iterator[dict[Path, Path | None]]:
    """Make `atomic_write` postpone replacing `targets`, and replace all of them if the body succeeds.

    No target is changed if the body fails or if the process is killed while the body runs.

    Yields:
        A dict that maps each target to the temporary file that will replace it, or to None until that file is written.
    """
    _postponed.update(dict.fromkeys(targets))
    try:
        yield _postponed
        for target, temporary in _postponed.items():
            if temporary:
                os.replace(temporary, target)
    finally:
        for temporary in _postponed.values():
            if temporary:
                temporary.unlink(missing_ok=True)
        _postponed.clear()


@contextmanager
def atomic_write(target: Path, *, concurrent: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `target` if the body succeeds and is deleted if it fails.

    If an enclosing `replace_together` includes this target, the target is not replaced until the body of that block
    succeeds.

    By default, the temporary file has a fixed name, so killed processes leave at most one behind, and the next attempt
    overwrites it. It has the same suffix as `target`, because some writers choose the file format based on the suffix.

    Args:
        target: file to create or replace. Missing parent folders are created.
        concurrent: whether to add the process and thread ids to the temporary file's name, so that several processes or
            threads can write `target` at the same time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target, concurrent=concurrent)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if target in _postponed:
            _postponed[target] = temporary
        else:
            os.replace(temporary, target)
    finally:
        if _postponed.get(target) != temporary:
            temporary.unlink(missing_ok=True)


def temporary_path(target: Path, *, concurrent: bool) -> Path:
    """Return the path of the temporary file that `atomic_write` writes."""
    writer = f".{os.getpid()}.{threading.get_ident()}" if concurrent else ""
    return target.with_name(f".{target.stem}{writer}.tmp{target.suffix}")


def write_text(target: Path, text: str, *, concurrent: bool = False) -> None:
    """Write UTF-8 text to `target` atomically. See `atomic_write` for `concurrent`."""
    with atomic_write(target, concurrent=concurrent) as temporary:
        temporary.write_text(text, encoding="utf-8")
