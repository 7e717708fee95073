"""Check the path of an output file before any work is done."""

import errno
from collections.abc import Sequence
from pathlib import Path

from rr.data.printable_names import display_name, printable
from rr.errors import UserError
from rr.runtime.atomic import temporary_path


def check_output_path(
    option: str,
    output: Path,
    suffixes: Sequence[str],
    input_file: Path | None = None,
    *,
    must_be_writable: bool = True,
    must_be_utf8: bool = False,
) -> None:
    """Check that `output` can be written, and that its suffix is one of `suffixes`.

    Checking the suffix prevents a mistyped path from replacing an unrelated file, such as a photograph. If
    `must_be_writable` is false, the file's folder may be read-only. Some libraries can write only to paths that are
    valid UTF-8 (`must_be_utf8`).

    Raises:
        UserError: if the path is invalid. The message names `option`.
    """
    folder = _existing_folder(output)
    if must_be_utf8 and display_name(output) != printable(str(output)):
        problem = "is not valid UTF-8: use a different name"
    elif output.is_dir():
        problem = "is a folder: use the path of a file"
    elif input_file and output.resolve() == input_file.resolve():
        problem = "is the input file: use a different path"
    elif output.suffix.lower() not in suffixes:
        problem = f"does not end in {' or '.join(suffixes)}: use a name that does"
    elif not folder.is_dir():
        problem = f"is in {folder}, which is not a folder: use a different path"
    elif error := _find_write_error(output):
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            if not must_be_writable:
                return
            problem = f"cannot be written, because the folder {folder} is read-only: use a different path"
        elif error.errno == errno.ENAMETOOLONG:
            problem = "has a name that is too long: use a shorter name"
        else:
            problem = (
                f"cannot be written, because {folder} accepts no new file ({error.strerror}): use a different path"
            )
    else:
        return
    raise UserError(f"{option} {display_name(output)} {problem}")


def is_writable(output: Path) -> bool:
    """Return whether files can be created in the folder of `output` or, if it is missing, in its nearest parent."""
    return _find_write_error(output) is None


def _find_write_error(output: Path) -> OSError | None:
    """Return the error that writing `output` causes, or None. Permissions do not reveal every error."""
    probe = _existing_folder(output) / temporary_path(output, concurrent=True).name
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        return error
    return None


def _existing_folder(output: Path) -> Path:
    return next((parent for parent in output.absolute().parents if parent.exists()), Path("/"))
