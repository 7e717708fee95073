"""Errors that the command line reports without a traceback."""

import errno
import re
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from rr.data.printable_names import printable

# Packages that are installed only with one of this project's extras, and the name of that extra (see pyproject.toml).
_EXTRAS = {
    **dict.fromkeys(("ffcv", "dvc", "snakemake", "matplotlib"), "workflow"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    "timm": "timm",
    "tensorboard": "tensorboard",
    **dict.fromkeys(("kornia", "lightly", "albumentations"), "bench"),
}

# Control characters except tabs and line breaks, halves of surrogate pairs, and characters that reverse the direction.
_TERMINAL_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake in the input, or a problem with the machine, that the user can fix.

    The message explains what is wrong, where, and what to do. The command line prints only this message and exits with
    code 2. Any other exception that `explain_error` does not recognize is a bug, and is printed with its traceback.

    Names from files that others have written may contain characters that control the terminal. These are replaced by
    escapes in the message.
    """

    def __init__(self, message: object) -> None:
        super().__init__(_TERMINAL_CONTROL.sub(lambda match: printable(match[0]), str(message)))


class ReportedByAnotherProcess(Exception):
    """Raised to end this process when another process of its run has printed the error. `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of this run has printed the error (exit code {code})")
        self.code = code


def format_alternatives(word: str, valid_words: Iterable[str]) -> str:
    """Return the end of an error message about an unknown word: the most similar valid word, or else all of them."""
    words = sorted(valid_words)
    matches = get_close_matches(word, words, n=1)
    known = f"known: {', '.join(words)}" if words else "no names are defined"
    return f"did you mean '{matches[0]}'?" if matches else known


def raise_if_lfs_pointer(path: Path) -> None:
    """Raise UserError if a file is only a Git LFS pointer, which a clone contains in place of the file itself."""
    with open(path, "rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise UserError(f"{path} is a Git LFS pointer instead of the file: run `git lfs pull`")


def explain_error(error: BaseException) -> UserError | None:
    """Return a UserError for an exception caused by the user's machine or installation, or None for any other."""
    match error:
        case OSError():
            return explain_os_error(error)
        case ModuleNotFoundError():
            return explain_missing_package(error)
        case RuntimeError() if "cannot cache function" in str(error):
            return UserError(
                "numba found no writable folder for its compiled code: set NUMBA_CACHE_DIR to a writable folder"
            )
        case MemoryError() | RuntimeError():
            return _explain_memory_error(error)
    return None


def explain_os_error(error: OSError) -> UserError | None:
    """Return a UserError for an operating system error that the user can fix, or None for any other one."""
    where = " at /dev/shm" if _is_about_shared_memory(error) else f" at {error.filename}" if error.filename else ""
    denied = f"permission denied{where}: check the permissions of the file and its folder"
    invalid = f"invalid path{where} ({error.strerror}): fix the path, or rename the file or folder that blocks it"
    messages = {
        errno.ENOSPC: f"no space left on the disk{where}: free some space, then run the same command again",
        errno.EDQUOT: f"disk quota exceeded{where}: delete some files, then run the same command again",
        **dict.fromkeys((errno.EACCES, errno.EPERM), denied),
        errno.EROFS: f"the file system is read-only{where}: remount it as writable, or use a different folder",
        errno.EFBIG: (
            f"file too large{where}: the file exceeds the largest size that the file system or your account "
            "(`ulimit -f`) allows; raise the limit or use a different file system"
        ),
        **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR), invalid),
        errno.EEXIST: f"a file or folder already exists{where}: rename or delete it",
        **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many open files: raise the limit (`ulimit -n`)"),
        errno.EIO: f"input/output error{where}: the disk or its connection may be failing; check it",
    }
    if error.errno in messages:
        return UserError(messages[error.errno])
    return UserError(f"{error.strerror}{where}: check the path and its file system") if error.filename else None


def explain_missing_package(error: ModuleNotFoundError) -> UserError | None:
    """Return a UserError that explains how to install a package from one of our extras, or None for other packages."""
    name = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(name)
    if extra is None:
        return None
    remedy = f"run pip install 'relational-reasoning[{extra}]'"
    libraries = ". Compiling FFCV requires OpenCV and TurboJPEG (on Debian: libopencv-dev, libturbojpeg0-dev)"
    return UserError(f"the package {name} is not installed: {remedy}{libraries if name == 'ffcv' else ''}")


def _explain_memory_error(error: MemoryError | RuntimeError) -> UserError | None:
    """Return a UserError if the error is about memory or the number of threads, or None otherwise."""
    # If CPU or GPU memory runs out, torch may raise a plain RuntimeError, and only its text reveals the cause.
    is_about_threads = "can't start new thread" in str(error)
    texts = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")  # cuBLAS and cuDNN report the last one
    if not isinstance(error, MemoryError) and not is_about_threads and not any(text in str(error) for text in texts):
        return None
    thread_limit = "; or raise the thread limit (`ulimit -u`)" if is_about_threads else ""
    return UserError(
        "out of memory: use a machine or GPU with more memory or, if this happened during training or evaluation, "
        f"lower batch_size or views in params.yaml{thread_limit}"
    )


def _is_about_shared_memory(error: OSError) -> bool:
    """Return whether an object in /dev/shm caused the error. `error.filename` does not include that folder.

    With several worker processes, torch and multiprocessing exchange data through such objects.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "/multiprocessing/" in frames[-1].filename
