"""Read and write lists of images to exclude from a dataset.

A list is a text file with one name per line. The names are the same as in the raw file: a path relative to the source
folder or, for Parquet, a file and a row. Non-printable characters, such as line breaks, are written as escapes.
"""

from collections.abc import Iterable
from pathlib import Path

from rr.data.printable_names import display_name, format_names
from rr.errors import UserError
from rr.runtime.atomic import write_text


def read_excluded_names(path: Path) -> list[str]:
    """Return the names in a list of excluded images.

    Raises:
        UserError: if the file is missing or is not UTF-8 text.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(
            f"exclude: {display_name(path)} cannot be read ({error}): correct `exclude` in this dataset's source "
            "in params.yaml, or remove it"
        ) from error


def write_excluded_names(path: Path, names: Iterable[str]) -> None:
    """Write a list of excluded images. Names are converted to printable text."""
    write_text(path, "".join(f"{display_name(name)}\n" for name in names))


def check_all_known(path: Path, unknown: Iterable[str]) -> None:
    """Raise UserError if a list contains names that the source does not contain (`unknown`)."""
    if names := sorted(unknown):
        raise UserError(
            f"exclude: {display_name(path)} lists images that the source does not contain: {format_names(names)}. "
            "Remove these lines"
        )
