"""Recognize split names in the names of folders and files, such as `train`, `Testing` or `val_set`."""

import re

from rr.data.printable_names import normalize_unicode, path_to_text

MAX_SPLITS = 10  # maximum number of distinct values in a column that assigns rows to splits
UNUSED = "outside the splits that are used"  # reason why a file is not used
TRAIN = "train"
TEST_ROLES = ("test", "holdout", "eval", "val", "dev")  # the first one that exists is the test split
_PATTERN = re.compile(
    r"(?:split=)?(?:images?|imgs?|data|dataset)?"
    r"(?:(?P<train>train(?:ing|val)?|trn)|(?P<test>test(?:ing)?|tst)|(?P<holdout>holdout|heldout)"
    r"|(?P<eval>eval(?:uation)?)|(?P<val>val|valid|validate|validation)|(?P<dev>dev|devel|development))"
    r"(?:sets?|splits?|data|dataset|images?|imgs?|samples?|folder|dir)?\d*"
)


_WORD_BOUNDARY = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])")


def find_split(name: str) -> str | None:
    """Return the split that the name of a folder or a file stands for: "train", one of TEST_ROLES, or None.

    Case, separators and digits at the end are ignored.
    """
    match = _PATTERN.fullmatch(re.sub(r"[-_. ]", "", path_to_text(name).casefold()))
    return match.lastgroup if match else None


# The beginnings of words for training and test images, including words in other languages.
_BEGINNINGS = {
    TRAIN: ("train", "trein", "entrain", "entraîn", "entren", "addestr", "apprent", "训练", "訓練", "学習"),
    "test": ("test", "prueba", "prova", "测试", "測試", "テスト"),
}


def suggest_split(word: str) -> str | None:
    """Return the split (see `find_split`) that a word such as `Trainingsdaten` may stand for, or None."""
    text = normalize_unicode(word.casefold())
    return find_split(word) or next((role for role, starts in _BEGINNINGS.items() if text.startswith(starts)), None)


def split_words(name: str) -> list[str]:
    """Return the words and numbers in a name such as `trainA`, `PublicTest` or `02-test`."""
    return [word for word in _WORD_BOUNDARY.split(path_to_text(name)) if word]


def assigns_splits(column: str, splits: set[str]) -> bool:
    """Return whether a column seems to assign rows to splits, given the splits whose names occur in its values."""
    return column.lower() == "split" or (TRAIN in splits and len(splits) > 1)
