"""One process at a time makes an artefact."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rr import paths
from rr.errors import UserError


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold `folder` while the body runs. Raises UserError that names the process which holds it now.

    The kernel drops the lock with its process, however that ends, so none is ever stale.
    """
    path = paths.lock(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"process {holder} is making {folder} right now: wait until it has ended") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
