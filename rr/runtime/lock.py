"""Lock files. The kernel releases a lock when the file is closed, and therefore also when the process dies.

The `filelock` package is not used: on file systems without kernel locks, it falls back to lock files that outlive a
killed process, and older releases truncate the lock file, which contains the process id here.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rr import paths
from rr.errors import UserError


def try_lock(path: Path, remedy: str) -> TextIO | None:
    """Lock the file at `path`, and return the open file, or None if another process has locked it.

    The file and its folder are created if they do not exist, and the file's contents are kept. Closing the file
    releases the lock; the process that holds the lock may delete the file. `remedy` is the end of the error message:
    what the user can do if the file system does not support locks.

    Raises:
        UserError: if the file system does not support locks.
    """
    while True:
        file = _open(path)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                return None
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise UserError(
                    f"{path.parent}: the file system does not support file locks (flock): {remedy}"
                ) from error
            raise
        # The previous holder may have deleted the file after it was opened here. Another process would then create and
        # lock a new file.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _open(path: Path) -> TextIO:
    """Open a lock file after creating its folder, which other processes may delete meanwhile if it is empty."""
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return open(path, "a+")
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a+")


def wait_until_unlocked(path: Path) -> None:
    """Wait until no process holds the lock on the file at `path`."""
    with open(path) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)


@contextmanager
def exclusive_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Let only this process write the outputs in `folder` while the body runs.

    `folder` may also be a file. If `wait` is true, wait for other processes that hold the lock.

    Raises:
        UserError: if another process holds the lock, unless `wait` is true. The message contains that process's id.
    """
    path = paths.lock_file(folder)
    while (file := try_lock(path, "move the project to a file system that supports them")) is None:
        with suppress(FileNotFoundError):  # the holder has deleted the file and released the lock
            if wait:
                wait_until_unlocked(path)
                continue
            holder = path.read_text().strip() or "(unknown id)"
            raise UserError(
                f"process {holder} is writing to {folder}: wait until it has finished, then run the same command again"
            )
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
