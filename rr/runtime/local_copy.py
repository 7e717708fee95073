"""Copy betons to a local disk, for projects on a slow or shared file system."""

import errno
import os
import shutil
from pathlib import Path

from rr.errors import UserError
from rr.runtime.atomic import atomic_write
from rr.runtime.hashing import file_sha256
from rr.runtime.lock import try_lock, wait_until_unlocked


def ensure_local_copy(path: Path, expected_sha256: str) -> Path:
    """Return a verified copy of `path` in the RR_SCRATCH folder, or `path` itself if RR_SCRATCH is not set.

    The copy is named after its hash. All runs on this machine share it, and each run verifies it. If the copy is
    missing or damaged, one process makes a new one while the others wait. Copies are never deleted.

    Raises:
        UserError: if RR_SCRATCH is not a folder or its file system does not support locks, or if the contents of
            `path` do not match `expected_sha256`.
        OSError: if there is no space for the copy. Its `filename` is the path of the copy.
    """
    scratch = os.environ.get("RR_SCRATCH")
    if not scratch:
        return path
    folder = Path(scratch)
    if not folder.is_dir():
        raise UserError(
            f"RR_SCRATCH={scratch} is not a folder on this machine: create the folder, fix RR_SCRATCH, or unset it"
        )
    copy = folder / f"{expected_sha256}{path.suffix}"
    lock_path = copy.with_suffix(".lock")
    # Verification does not need a lock, because a copy is renamed into place only when it is complete.
    while not _is_valid(copy, expected_sha256):
        lock = try_lock(lock_path, "set RR_SCRATCH to a folder on a local disk, or unset it")
        if lock is None:
            wait_until_unlocked(lock_path)
            continue  # another process made the copy or failed to make it
        with lock:
            if not _is_valid(copy, expected_sha256):  # another process may have made it before the lock was taken
                _copy_and_verify(path, copy, expected_sha256)
            return copy
    return copy


def _is_valid(copy: Path, expected_sha256: str) -> bool:
    return copy.is_file() and file_sha256(copy) == expected_sha256


def _copy_and_verify(path: Path, copy: Path, expected_sha256: str) -> None:
    try:
        with atomic_write(copy) as temporary:
            shutil.copyfile(path, temporary)
            if file_sha256(temporary) != expected_sha256:
                raise UserError(f"{path} changed while it was copied to {copy.parent}: run the command again")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(copy)  # shutil sets this to the file that it reads, and fsync does not set it
        raise
