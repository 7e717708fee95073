"""Betons on the disk of the machine that reads them, where the project lies on a slow or shared one."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

from rr.errors import UserError
from rr.runtime.atomic import replacing
from rr.runtime.hashing import sha256


def nearby(path: Path, recorded: str) -> Path:
    """A copy of `path` in the folder that RR_SCRATCH names, or `path` itself where it names none.

    `recorded` is the SHA-256 of what the copy must hold, by which it is called; one that is there already is compared
    anew, and serves every run of the machine. One process makes it, and the others that need it wait. Nobody deletes
    it. Raises UserError where RR_SCRATCH is no folder or knows no locks, and where `path` does not hold what is
    recorded; OSError, with the copy's name, where that has no room.
    """
    named = os.environ.get("RR_SCRATCH")
    if not named:
        return path
    folder = Path(named)
    if not folder.is_dir():
        raise UserError(f"RR_SCRATCH={named}: there is no such folder on this machine; make it, or unset RR_SCRATCH")
    copy = folder / f"{recorded}{path.suffix}"
    # Compared without the lock, by all at once, because a copy appears whole.
    while not _holds(copy, recorded):
        with open(copy.with_suffix(".lock"), "a") as lock:
            if not _first(lock.fileno(), folder):
                continue  # another process has just made it, or has failed to
            if not _holds(copy, recorded):  # made between the two looks
                _make(copy, path, recorded)
            return copy
    return copy


def _holds(copy: Path, recorded: str) -> bool:
    return copy.is_file() and sha256(copy) == recorded


def _first(lock: int, folder: Path) -> bool:
    """Lock the open file `lock`, which closing it or any end of this process undoes; or wait for who has, and False."""
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        raise UserError(
            f"RR_SCRATCH={folder}: that file system knows no locks; name a folder on a local disk"
        ) from error
    return True


def _make(copy: Path, path: Path, recorded: str) -> None:
    """Copy `path`. What a killed process has left half written has the same temporary name, and goes now."""
    try:
        with replacing(copy) as temporary:
            shutil.copyfile(path, temporary)
            if sha256(temporary) != recorded:
                raise UserError(f"{path} changed while it was copied to {copy.parent}: run the command again")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(copy)  # shutil names the file that is read, and a flush names none
        raise
