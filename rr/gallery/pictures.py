"""The pictures below a folder: their names, what tells that one has changed, and their pixels."""

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from rr.data import raw
from rr.errors import UserError

Unreadable = Literal["stop", "skip"]
_THREADS = min(8, os.cpu_count() or 1)  # each may hold a camera's picture, of a hundred megabytes


class Picture(NamedTuple):
    """A file, its path below the folder as text, its size (bytes) and time of modification (ns)."""

    file: Path
    name: str
    size: int
    modified: int


def listed(folder: Path) -> list[Picture]:
    """Every picture below `folder`, sorted by name; hidden ones are left out, links to folders not followed.

    Raises UserError where there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds pictures")
    suffixes = _suffixes()
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = os.path.relpath(place, folder)
        prefix = "" if within == os.curdir else f"{within}/"
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            file = os.path.join(place, name)
            try:
                facts = os.stat(file)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    continue  # a link that leads nowhere, or a file removed just now
                raise
            if stat.S_ISREG(facts.st_mode):
                found.append(Picture(Path(file), text(prefix + name), facts.st_size, facts.st_mtime_ns))
    if not found:
        raise UserError(f"{folder} holds no picture: add some (.jpg, .png, …), or name another folder")
    return sorted(found, key=lambda picture: picture.name)


def decoded(
    pictures: Sequence[Picture], side: int, batch: int, unreadable: Unreadable
) -> Iterator[tuple[list[Picture], np.ndarray]]:
    """Yield up to `batch` pictures at a time and their pixels, uint8 (B, side, side, 3).

    One that cannot be read is a UserError; with `unreadable` "skip" it is named on stderr and left out.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            kept: list[Picture] = []
            pixels = np.empty((len(part), side, side, 3), np.uint8)
            for picture, outcome in zip(part, pool.map(partial(_attempt, side=side), part), strict=True):
                if isinstance(outcome, UserError):
                    if unreadable == "stop":
                        raise UserError(f"{outcome}; mend or remove it, or pass over it with --unreadable skip")
                    print(f"skipped {outcome}", file=sys.stderr)
                else:
                    pixels[len(kept)] = outcome
                    kept.append(picture)
            yield kept, pixels[: len(kept)]


def read(file: Path, side: int | None = None) -> np.ndarray:
    """Decode `file` as `rr.data.raw.decode` does. Raises UserError that names a file which cannot be read."""
    try:
        return raw.decode(file.read_bytes(), side)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{printable(text(file))}: not a readable picture ({reason})") from error


def is_picture_name(path: Path) -> bool:
    """Whether `path` ends as pictures do: nothing else may be written there."""
    return path.suffix.lower() in _suffixes()


def text(path: str | Path) -> str:
    """A path as text. A name need not be any; one that is none is written with escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(name: str) -> str:
    """`name` in one line that leaves a terminal as it is."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def _attempt(picture: Picture, side: int) -> np.ndarray | UserError:
    try:
        return read(picture.file, side)
    except UserError as error:
        return error


def _suffixes() -> set[str]:
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed is no empty one."""
    raise error
