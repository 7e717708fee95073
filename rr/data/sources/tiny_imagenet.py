"""Tiny-ImageNet (Stanford CS231n, 2015): 200 classes of ImageNet in JPEG of 64 × 64.

In the archive: `wnids.txt`, the classes' WordNet numbers; `words.txt`, number and words of every class of ImageNet;
`train/<number>/images/*.JPEG`; `val/images/*.JPEG`, whose classes stand in `val/val_annotations.txt` (file, number,
box). Its `test` folder has no labels, and is not used.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rr.data import raw
from rr.data.archive import Limits, Tree, open_tree
from rr.data.download import download as bring
from rr.errors import UserError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
CLASSES, TRAIN_PER_CLASS, TEST = 200, 500, 10_000
_LIMITS = Limits(size=2 << 30, members=200_000)  # the official archive has some 120,600 members


def pictures(download: Path, local: Path | None) -> raw.Pictures:
    """Yield the 500 training pictures of each class, and as test split the 10,000 of the official validation split.

    `local`: the official zip, or a folder with it or its contents. No checksum of it is published, so those of its
    members are compared as they are read, and all pictures counted.
    Raises UserError for a failed download, a damaged zip, and a picture too few or too many.
    """
    file = Path(URL).name
    place = local or download / file
    if local is None:
        bring(URL, place)
    elif (local / file).is_file():
        place = local / file
    tree = open_tree(place, download / "unpacked", _LIMITS)
    root = next((name.removesuffix("wnids.txt") for name in tree.names if Path(name).name == "wnids.txt"), None)
    if root is None:
        raise UserError(f"{place} holds no wnids.txt: give the official {file}, or the folder made from it")
    numbers = sorted(_lines(tree, f"{root}wnids.txt", place))
    if len(numbers) != CLASSES:
        raise UserError(f"{place} lists {len(numbers)} classes in place of {CLASSES}: get it again")
    train = _train(tree, root, numbers, place)
    test = _test(tree, root, numbers, place)
    names = _names(numbers, _lines(tree, f"{root}words.txt", place))

    def rows() -> Iterator[raw.Picture]:
        for split, listed in (("train", train), ("test", test)):
            for name, label in listed:
                yield raw.Picture(split, name.removeprefix(root), tree.read(name), label)

    return raw.Pictures(names, rows())


def _train(tree: Tree, root: str, numbers: list[str], place: Path) -> list[tuple[str, int]]:
    """The training pictures and their labels, class by class."""
    labels = {number: label for label, number in enumerate(numbers)}
    found = []
    for name in tree.names:
        match name.removeprefix(root).split("/"):
            case ["train", number, "images", _] if number in labels:
                found.append((name, labels[number]))
    counts = Counter(label for _, label in found)
    for label, number in enumerate(numbers):
        if counts[label] != TRAIN_PER_CLASS:
            raise UserError(
                f"{place}: train/{number} has {counts[label]} pictures in place of {TRAIN_PER_CLASS}: get it again"
            )
    return sorted(found, key=lambda picture: (picture[1], picture[0]))


def _test(tree: Tree, root: str, numbers: list[str], place: Path) -> list[tuple[str, int]]:
    """The validation pictures and their labels, in the order of the annotations."""
    labels = {number: label for label, number in enumerate(numbers)}
    there = set(tree.names)
    found = {}
    for position, line in enumerate(_lines(tree, f"{root}val/val_annotations.txt", place), 1):
        file, number, *_ = [*line.split("\t"), ""]
        name = f"{root}val/images/{file}"
        if name not in there or number not in labels or name in found:
            raise UserError(
                f"{place}: val/val_annotations.txt, line {position}: no such picture or class: get it again"
            )
        found[name] = labels[number]
    if len(found) != TEST:
        raise UserError(f"{place}: val has {len(found)} annotated pictures in place of {TEST}: get it again")
    return list(found.items())


def _names(numbers: list[str], words: list[str]) -> list[str]:
    """The first of a class's words, with the class's number beside it where two classes share that."""
    known = dict(line.partition("\t")[::2] for line in words)
    first = [known.get(number, number).split(",")[0].strip() for number in numbers]
    counts = Counter(first)
    return [word if counts[word] == 1 else f"{word} ({number})" for word, number in zip(first, numbers, strict=True)]


def _lines(tree: Tree, name: str, place: Path) -> list[str]:
    if name not in tree.names:
        raise UserError(f"{place} holds no {name}: get it again")
    return [line for line in tree.read(name).decode("utf-8", "replace").splitlines() if line.strip()]
