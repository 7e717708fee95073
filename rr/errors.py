"""The one kind of error that is the user's to mend."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the input or the surroundings: the command line prints its text alone and exits with code 2.

    The text says what is wrong, where, and what to do. Anything else that is raised is a bug and keeps its traceback.
    """


class SaidElsewhere(Exception):
    """The end of a process whose error another process of the same run has printed; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of this run says why it ends with {code}")
        self.code = code


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known word, or all of them."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"


def explain_os_error(error: OSError) -> UserError | None:
    """Translate the operating system's refusals that a user can mend; None for the others."""
    where = f" at {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return UserError(f"no space left on the disk{where}: free some, then run the same command again")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return UserError(f"not allowed to write or read{where}: check the permissions of that path")
        case errno.EFBIG:
            return UserError(f"a file grows larger than this disk or account may hold{where}: write to another disk")
        case errno.ENAMETOOLONG | errno.ELOOP | errno.ENOTDIR | errno.EISDIR:
            return UserError(f"there is no such file or folder{where} ({error.strerror}): correct that path")
        case errno.EEXIST:
            return UserError(f"something stands in the way of a file or folder{where}: move it away")
        case errno.EIO:
            return UserError(f"the disk cannot be read or written{where}: check its health, or use another one")
    return None
