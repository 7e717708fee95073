"""Check the path of an output file before any work is done."""

import os
from collections.abc import Sequence
from pathlib import Path

from rr.errors import UserError


def check_output_path(option: str, output: Path, suffixes: Sequence[str], input_file: Path | None = None) -> None:
    """Check that `output` can be written, and that its suffix is one of `suffixes`.

    The check of the suffix prevents that a mistyped path replaces an unrelated file, such as a photograph.

    Raises:
        UserError: if the path is invalid. The message names `option`.
    """
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if output.is_dir():
        problem = "is a folder: use the path of a file"
    elif input_file and output.resolve() == input_file.resolve():
        problem = "is the input file: use a different path"
    elif output.suffix.lower() not in suffixes:
        problem = f"does not end in {' or '.join(suffixes)}: use a name that does"
    elif not folder.is_dir():
        problem = f"is in {folder}, which is not a folder: use a different path"
    elif not os.access(folder, os.W_OK):
        problem = f"cannot be written, because the folder {folder} is read-only: use a different path"
    else:
        return
    raise UserError(f"{option} {output} {problem}")
