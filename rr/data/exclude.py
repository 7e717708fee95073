"""Read and write lists of images to exclude from a dataset.

A list is a text file with one name per line. The names are the same as in the raw file: a path relative to the source
folder or, for Parquet, a file and a row. Non-printable characters, such as line breaks, are written as escapes; a list
that you write may also contain them unescaped, except line breaks. The first digits of an image's SHA-256 may follow a
row, so that rr detects whether the file has changed since the list was written.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from rr.data.printable_names import display_name, printable
from rr.errors import UserError
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_names

_NUM_DIGITS = 16
_WITH_DIGEST = re.compile("(?P<name>.+), sha256 (?P<digest>[0-9a-f]{8,64})")


def read_excluded_names(path: Path) -> list[str]:
    """Return the lines of a list of excluded images, with escapes for non-printable characters.

    A byte order mark and `./` at the start of a name are dropped.

    Raises:
        UserError: if the file is missing or is not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return [printable(name) for line in lines if (name := line.removeprefix("./"))]
    except (OSError, ValueError) as error:  # ValueError covers bytes that are not UTF-8 and null bytes in the path
        raise UserError(
            f"exclude: {display_name(path)} cannot be read ({error}): fix `exclude` in this dataset's source "
            "in params.yaml, or remove it"
        ) from error


def write_excluded_names(path: Path, names: Iterable[str]) -> None:
    """Write a list of excluded images. Names are converted to printable text."""
    write_text(path, "".join(f"{display_name(name)}\n" for name in names))


def add_digest(name: str, data: bytes) -> str:
    """Return the line of a list for an image from a Parquet file. `data` is the encoded image."""
    return f"{name}, sha256 {hashlib.sha256(data).hexdigest()[:_NUM_DIGITS]}"


def split_digest(line: str) -> tuple[str, str]:
    """Return the name in a line of a list, and the first digits of the image's SHA-256 or an empty string."""
    match = _WITH_DIGEST.fullmatch(line)
    return (match["name"], match["digest"]) if match else (line, "")


def reject_unknown_names(path: Path, unknown: Iterable[str]) -> None:
    """Raise UserError if a list contains names that the source does not contain (`unknown`)."""
    if names := sorted(map(printable, unknown)):
        raise UserError(
            f"exclude: {display_name(path)} lists images that the source does not contain: {format_names(names)}. "
            "Remove these lines"
        )
