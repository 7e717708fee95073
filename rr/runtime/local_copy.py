"""Copy betons to a local disk, for projects on a slow or shared file system."""

import errno
import os
import shutil
from pathlib import Path

from rr.errors import UserError
from rr.runtime.atomic import atomic_write
from rr.runtime.hashing import file_sha256
from rr.runtime.lock import try_lock, wait_until_unlocked


def local_copy(path: Path, expected_sha256: str) -> Path:
    """Return a verified copy of `path` in the folder RR_SCRATCH, or `path` itself if RR_SCRATCH is not set.

    The copy is named after its hash, serves all runs on this machine, and is verified by each of them. If it is
    missing or damaged, one process makes it while the others wait. Copies are never deleted.

    Args:
        path: File to copy.
        expected_sha256: SHA-256 of `path`, as recorded.

    Raises:
        UserError: if RR_SCRATCH is not a folder or its file system does not support locks, or if the contents of
            `path` do not match `expected_sha256`.
        OSError: if there is no space for the copy; its `filename` is that of the copy.
    """
    scratch = os.environ.get("RR_SCRATCH")
    if not scratch:
        return path
    folder = Path(scratch)
    if not folder.is_dir():
        raise UserError(f"RR_SCRATCH={scratch}: no such folder on this machine; create it or unset RR_SCRATCH")
    copy = folder / f"{expected_sha256}{path.suffix}"
    lock_path = copy.with_suffix(".lock")
    # No lock is needed to verify: the copy is renamed into place when it is complete. So all processes verify at once.
    while not _is_valid(copy, expected_sha256):
        lock = try_lock(lock_path)
        if lock is None:
            wait_until_unlocked(lock_path)
            continue  # another process has made the copy, or has failed
        with lock:
            if not _is_valid(copy, expected_sha256):  # another process may have made it before the lock was taken
                _copy(path, copy, expected_sha256)
            return copy
    return copy


def _is_valid(copy: Path, expected_sha256: str) -> bool:
    return copy.is_file() and file_sha256(copy) == expected_sha256


def _copy(path: Path, copy: Path, expected_sha256: str) -> None:
    try:
        with atomic_write(copy) as temporary:
            shutil.copyfile(path, temporary)
            if file_sha256(temporary) != expected_sha256:
                raise UserError(f"{path} changed while it was copied to {copy.parent}: run the command again")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(copy)  # shutil reports the file that is read, and fsync reports none
        raise
