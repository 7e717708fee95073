"""Convert the names of files and classes to text, for messages and for data."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from rr.runtime.formatting import format_names


def path_to_text(path: str | Path) -> str:
    """Return the path as text, with escapes for bytes that are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def normalize_unicode(text: str) -> str:
    """Return the text in the composed form of Unicode (NFC), so that equivalent names compare equal."""
    return unicodedata.normalize("NFC", text)


def display_name(path: str | Path) -> str:
    """Return the path as one line of printable text, with escapes for all other characters."""
    return printable(path_to_text(path))


def display_names(paths: Iterable[str | Path]) -> str:
    """Return the first ten paths as printable text, separated by commas, and how many more there are."""
    return format_names([display_name(path) for path in paths])


def printable(text: str) -> str:
    """Return the text with escapes for non-printable characters."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
