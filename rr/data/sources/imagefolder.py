"""One's own pictures in folders, one folder per class."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from rr.data import raw
from rr.errors import UserError
from rr.params import FolderSource

_TEST_NAMES = ("test", "val", "valid", "validation")


def pictures(source: FolderSource, local: Path | None) -> raw.Pictures:
    """Read `path/train/<class>/…` and `path/test/<class>/…`, or split `path/<class>/…` by `test_share` of each class.

    Pictures that lie in `path` itself (or in `path/train`, `path/test`) are unlabelled. The split depends on the
    pictures' bytes alone, so it is the same everywhere. Raises UserError for a missing or empty folder, a class
    without a picture, and pictures beside class folders.
    """
    root = local or Path(source.path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: correct the source's path in params.yaml, or name it with --from")
    tests = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
    if (root / "train").is_dir() and not tests:
        root = root / "train"
    if tests and (root / "train").is_dir():
        parts = {"train": root / "train", "test": tests[0]}
        listed = {split: _classes(folder) for split, folder in parts.items()}
        class_names = sorted(listed["train"])
        if sorted(listed["test"]) != class_names:
            odd = sorted(set(listed["test"]) ^ set(class_names))
            raise UserError(
                f"{root}: the class folders of {parts['train']} and {parts['test']} differ: {', '.join(odd)}"
            )
    else:
        by_class = _classes(root)
        class_names = sorted(by_class)
        listed = {split: {} for split in raw.SPLITS}
        for name, files in by_class.items():
            held_out = _held_out(files, source.test_share)
            listed["train"][name] = [file for file in files if file not in held_out]
            listed["test"][name] = [file for file in files if file in held_out]

    def rows() -> Iterator[raw.Picture]:
        for split in raw.SPLITS:
            for label, name in enumerate(class_names):
                for file in listed[split][name]:
                    number = label if name else raw.UNLABELLED
                    # A name need not be text; one that is none is written with escapes.
                    shown = os.fsencode(file.relative_to(root)).decode("utf-8", "backslashreplace")
                    yield raw.Picture(split, shown, file.read_bytes(), number)

    return raw.Pictures([name for name in class_names if name], rows())


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Map each class to its sorted pictures; pictures without a class folder go under the empty name."""
    suffixes = Image.registered_extensions()

    def files(place: Path, pattern: str) -> list[Path]:
        found = (file for file in place.glob(pattern) if file.is_file() and not file.name.startswith("."))
        return sorted(file for file in found if file.suffix.lower() in suffixes)

    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    beside = files(folder, "*") if folders else []
    if beside:
        raise UserError(f"{beside[0]} lies beside class folders: move it into one of them, or elsewhere")
    classes = {entry.name: files(entry, "**/*") for entry in folders} or {"": files(folder, "*")}
    for name, pictures_of_class in classes.items():
        if not pictures_of_class:
            raise UserError(
                f"{folder / name} holds no picture: add some ({'/'.join(sorted({'.jpg', '.png'}))}…), or remove it"
            )
    return classes


def _held_out(files: list[Path], share: float) -> set[Path]:
    """The files of one class that form its test split: at least one, and not all, of its different pictures.

    Ranked by their bytes: the split is the same everywhere, and copies of a picture stay on one side.
    """
    digests = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    ranked = sorted(set(digests.values()))
    count = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
    held_out = set(ranked[:count])
    return {file for file, digest in digests.items() if digest in held_out}
