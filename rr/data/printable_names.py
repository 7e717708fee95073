"""Convert the names of files and classes to text, for messages and for data."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_MAX_LISTED = 10


def path_to_text(path: str | Path) -> str:
    """Return the path as text, with escapes for bytes that are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def normalize_unicode(text: str) -> str:
    """Return the text in the composed form of Unicode (NFC), so that equivalent names compare equal."""
    return unicodedata.normalize("NFC", text)


def display_name(path: str | Path) -> str:
    """Return the path as one line of printable text, with escapes for all other characters."""
    return printable(path_to_text(path))


def printable(text: str) -> str:
    """Return the text with escapes for non-printable characters."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def format_names(names: Sequence[str]) -> str:
    """Return the first ten names, separated by commas, and how many more there are. The names must be printable."""
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest:,} more" if rest > 0 else "")
