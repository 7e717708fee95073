"""SlimageNet64 (Antoniou, Patacchiola, Ochal & Storkey, 2020): 200 pictures of each class of ImageNet, 64 × 64."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from rr.data import raw
from rr.data.archive import Limits, Tree, open_tree
from rr.errors import UserError

ADDRESS = "https://zenodo.org/record/3672132"
CLASSES, PER_CLASS, TRAIN_PER_CLASS = 1000, 200, 160
_LIMITS = Limits(size=16 << 30, members=500_000)  # generous: the archive's own size is not known

Classes = dict[str, list[str]]


def pictures(download: Path, local: Path | None) -> raw.Pictures:
    """Yield the pictures of `local`: a folder, zip or tar with a folder per class, or with train and test folders.

    The paper has 160 training and 40 test pictures of each class, and does not say which. Where `train` and `test`
    have the same classes (as the paper's code expects), they are used as they are. Else, of each class, the 160 whose
    sha256 of "class/file" is smallest are for training. Folders with different classes are one set: that is how the
    published archive is split for few-shot learning.
    Raises UserError without a copy, and for a class too few or with another number of pictures.
    """
    if local is None:
        raise UserError(
            f"slimagenet64 is not downloaded by rr: get it from {ADDRESS}, then name the archive or folder with "
            "--from, or as 'path' of the source in params.yaml"
        )
    tree = open_tree(local, download / "unpacked", _LIMITS)
    splits = _splits(tree, local)
    names = sorted(splits["train"])
    if len(names) != CLASSES:
        raise UserError(
            f"{local} has {len(names)} classes in place of {CLASSES}: it needs a folder per class, or train and test "
            f"folders of such; get it again from {ADDRESS}"
        )

    def rows() -> Iterator[raw.Picture]:
        for split in raw.SPLITS:
            for label, name in enumerate(names):
                for file in splits[split][name]:
                    yield raw.Picture(split, file, tree.read(file), label)

    return raw.Pictures(names, rows())


def _splits(tree: Tree, local: Path) -> dict[str, Classes]:
    """The pictures of each class in each split."""
    parts = _parts(tree)
    if "train" in parts and "test" in parts:
        train, test = parts["train"], parts["test"]
        if train.keys() == test.keys():
            return {"train": train, "test": test}
        shared = train.keys() & test.keys()
        if shared:
            odd = sorted(train.keys() ^ test.keys())
            raise UserError(f"{local}: train and test have different classes ({', '.join(odd[:5])}…): make them equal")
    merged: Classes = {}
    for classes in parts.values():
        for name, files in classes.items():
            merged.setdefault(name, []).extend(files)
    for name, files in sorted(merged.items()):
        if len(files) != PER_CLASS:
            raise UserError(
                f"{local}: class {name} has {len(files)} pictures in place of {PER_CLASS}: get it again from {ADDRESS}"
            )
    ranked = {name: sorted(files, key=_rank) for name, files in merged.items()}
    return {
        "train": {name: sorted(files[:TRAIN_PER_CLASS]) for name, files in ranked.items()},
        "test": {name: sorted(files[TRAIN_PER_CLASS:]) for name, files in ranked.items()},
    }


def _parts(tree: Tree) -> dict[str, Classes]:
    """The pictures by the folder above their class (train, val, test, or another), and by class."""
    suffixes = Image.registered_extensions()
    parts: dict[str, Classes] = {}
    for name in tree.names:
        above, _, rest = name.rpartition("/")
        part, _, kind = above.rpartition("/")
        if kind and Path(rest).suffix.lower() in suffixes:
            parts.setdefault(part.rpartition("/")[2], {}).setdefault(kind, []).append(name)
    return parts


def _rank(name: str) -> str:
    """The hash of "class/file": the same whatever folder or archive the file came in."""
    return hashlib.sha256("/".join(name.split("/")[-2:]).encode()).hexdigest()
