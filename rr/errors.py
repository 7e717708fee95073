"""Errors that the command line reports without a traceback."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the input or a problem of the machine that the user can fix.

    The message states what is wrong, where, and what to do. The command line prints only this message, and exits with
    code 2. Any other exception is a bug and is printed with its traceback.
    """


class ReportedByAnotherRank(Exception):
    """Ends a process after another process of the same run has printed the error. `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of this run reports why it ends with exit code {code}")
        self.code = code


def suggest(word: str, valid_words: Iterable[str]) -> str:
    """Return the end of an error message about an unknown word: the most similar valid word, or a list of all."""
    words = sorted(valid_words)
    matches = get_close_matches(word, words, n=1)
    return f"did you mean '{matches[0]}'?" if matches else f"known: {', '.join(words) or 'none'}"


def explain_os_error(error: OSError) -> UserError | None:
    """Return a UserError for an operating system error that the user can fix, or None for any other error."""
    where = f" at {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return UserError(f"no space left on the disk{where}: free some space, then run the same command again")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return UserError(f"permission denied{where}: check the permissions of this path")
        case errno.EFBIG:
            return UserError(f"file too large for this disk or account{where}: write to another disk")
        case errno.ENAMETOOLONG | errno.ELOOP | errno.ENOTDIR | errno.EISDIR:
            return UserError(f"invalid path{where} ({error.strerror}): correct the path")
        case errno.EEXIST:
            return UserError(f"a file or folder of this name already exists{where}: move it")
        case errno.EIO:
            return UserError(f"input/output error of the disk{where}: check the disk, or use another one")
    return None
