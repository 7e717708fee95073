"""Betons on the disk of the machine that reads them, where the project lies on a slow or shared one."""

import os
import shutil
from pathlib import Path

from rr.atomic import replacing
from rr.errors import UserError
from rr.provenance import sha256


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
    if copy.is_file() and sha256(copy) == recorded:
        return copy
    with replacing(copy, shared=True) as temporary:
        shutil.copyfile(path, temporary)
        if sha256(temporary) != recorded:
            raise UserError(f"{path} changed while it was copied to {folder}: run the command again")
    return copy
