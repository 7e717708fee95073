"""Recognize columns of labels, class names that are variants of one name, and names that mean "unlabeled"."""

import re
from collections.abc import Iterable

# Names of the column of labels, in order of priority, and names that are used if there is only one such column. In a
# Parquet file, columns with other names may contain anything, such as an age.
LABEL_NAMES = ("label", "labels", "fine_label")
LABEL_LIKE = re.compile(r"(.*[_ ])?(labels?|class(es)?|cls|category|categories|targets?)")
# Names such as `cat (1)`, `cat - Copy (2)`, `cat copy 2` and `cat (another copy)`, in lower case.
_COPY = re.compile(
    r"(?P<base>.+?)(?: ?\([1-9]\d?\)|[ _-]+\(?(?:another |\d+\w\w )?(?:kopie|cop(?:y|ie|ia))\)?(?: ?\(?\d+\)?)?)"
)
_UNLABELED = re.compile(r"-1|nan|null|<na>|unlabell?ed(?:[ _-]?(?:data|images?))?")


def find_variants(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that differ only in case, in spaces or in a suffix that marks a copy, or None.

    Single letters may differ in case, because a dataset of letters may have the classes `A` and `a`.
    """
    by_key: dict[str, str] = {}
    for name in names:
        key = " ".join(name.split())
        key = key if len(key) == 1 else key.lower()
        if key in by_key:
            return by_key[key], name
        by_key[key] = name
    for key, name in by_key.items():
        if (match := _COPY.fullmatch(key)) and match["base"] in by_key:
            return by_key[match["base"]], name
    return None


def means_unlabeled(name: str) -> bool:
    """Return whether a label or the name of a folder, such as `nan` or `unlabeled`, means that images are unlabeled."""
    return _UNLABELED.fullmatch(name.strip().lower()) is not None
