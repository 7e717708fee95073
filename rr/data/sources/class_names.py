"""Recognize columns of labels, class names that are variants of one name, and names that mean "unlabeled"."""

import re
import unicodedata
from collections.abc import Iterable

# Names of the column of labels, in order of priority, and names that are used if there is only one such column. In a
# Parquet file, columns with other names may contain anything, such as an age.
LABEL_NAMES = ("label", "labels", "fine_label")
LABEL_LIKE = re.compile(r"(.*[_ ])?(labels?|class(es)?|cls|category|categories|targets?)")
# Names such as `cat (1)`, `cat - Copy (2)`, `cat copy 2` and `cat (another copy)`, in lower case.
_COPY = re.compile(
    r"(?P<base>.+?)(?: ?\([1-9]\d?\)|[ _-]+\(?(?:another |\d+\w\w )?(?:kopie|cop(?:y|ie|ia))\)?(?: ?\(?\d+\)?)?)"
)
_UNLABELED = re.compile(r"(?:-1|nan|null|<na>|unlabell?ed(?:[ _-]?(?:data|images?))?)?")
# Invisible characters that do not belong to the Unicode categories of control (Cc) and format characters (Cf).
_INVISIBLE = "\u034f\u115f\u1160\u3164\ufe0e\ufe0f"
_FLAG_TAGS = re.compile("[\U000e0020-\U000e007f]")  # format characters that distinguish the flags of regions
_INTEGER = re.compile(r"\+?(-?)0*(0|[1-9][0-9]*)(?:\.0*)?")  # such as `1`, `01` and `1.0`, but not `1.10` or `1e2`


def find_variants(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that are spellings of one name or differ in a suffix that marks a copy, or None.

    Spellings of one name differ only in case, in spaces, in invisible characters, in quotation marks around them, in
    compatible characters, such as full-width letters, or in the form of an integer, such as `1`, `01` and `1.0`.
    """
    by_key: dict[str, str] = {}
    for name in names:
        key = _normalize(name)
        if key in by_key:
            return by_key[key], name
        by_key[key] = name
    for key, name in by_key.items():
        if (match := _COPY.fullmatch(key)) and match["base"] in by_key:
            return by_key[match["base"]], name
    return None


def means_unlabeled(name: str) -> bool:
    """Return whether a label or the name of a folder, such as `nan` or `unlabeled`, means that images are unlabeled.

    A name without visible characters has the same meaning.
    """
    return _UNLABELED.fullmatch(_normalize(name)) is not None


def _normalize(name: str) -> str:
    """Return the form of a name that is the same for all its spellings (see `find_variants`).

    Single letters stay as they are, because a dataset of letters may have the classes `A` and `a`.
    """
    visible = (char for char in name if char.isspace() or not _is_invisible(char))
    key = " ".join("".join(visible).split())
    key = key.strip('"') or key
    if len(key) == 1 and not key.isdecimal():
        return key
    key = unicodedata.normalize("NFKC", key).lower()
    return "".join(integer.groups()) if (integer := _INTEGER.fullmatch(key)) else key


def _is_invisible(char: str) -> bool:
    is_control_or_format = unicodedata.category(char) in ("Cc", "Cf") and not _FLAG_TAGS.match(char)
    return is_control_or_format or char in _INVISIBLE
