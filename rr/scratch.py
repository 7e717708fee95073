"""Betons on the disk of the machine that reads them, where the project lies on a slow or shared one."""

import hashlib
import os
from pathlib import Path

from rr.atomic import replacing
from rr.errors import UserError

_PIECE = 16 << 20


def local(path: Path, recorded: str) -> Path:
    """A copy of `path` in the folder that RR_SCRATCH names, or `path` itself where it names none.

    `recorded` is the SHA-256 of what the copy must hold, by which it is called; one that is there already is compared
    anew, and serves every run of the machine. Nobody deletes it. Raises UserError where RR_SCRATCH is no folder, and
    where `path` does not hold what is recorded.
    """
    named = os.environ.get("RR_SCRATCH")
    if not named:
        return path
    folder = Path(named)
    if not folder.is_dir():
        raise UserError(f"RR_SCRATCH={named}: there is no such folder on this machine; make it, or unset RR_SCRATCH")
    copy = folder / f"{recorded}{path.suffix}"
    if copy.is_file() and _hash(copy) == recorded:
        return copy
    with replacing(copy, shared=True) as temporary:
        if _hash(path, temporary) != recorded:
            raise UserError(f"{path} changed while it was copied to {folder}: run the command again")
    return copy


def _hash(path: Path, copy: Path | None = None) -> str:
    """SHA-256 of a file, which is written to `copy` on the way."""
    found = hashlib.sha256()
    with open(path, "rb") as source, open(copy or os.devnull, "wb") as target:
        while piece := source.read(_PIECE):
            found.update(piece)
            target.write(piece)
    return found.hexdigest()
