"""Read your own images from folders, one folder per class."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from rr.data import raw
from rr.errors import UserError
from rr.params import FolderSource

_TEST_NAMES = ("test", "val", "valid", "validation")


def read_dataset(source: FolderSource, local_copy: Path | None) -> raw.RawDataset:
    """Return the images in `path/train/<class>/…` and `path/test/<class>/…`, or split those in `path/<class>/…`.

    The test folder may also be called `val`, `valid` or `validation`. Images are split within each class, according to
    `test_fraction`. The split depends only on the bytes of the images, so it is the same on every machine. Images
    directly in `path` (or in `path/train` and `path/test`) are unlabeled.

    Args:
        source: the dataset's `source` section in params.yaml.
        local_copy: folder to use instead of the path of `source`.

    Raises:
        UserError: if the folder is missing, if a class has no images, if train and test have different classes, or if
            there are images next to class folders.
    """
    root = local_copy or Path(source.path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: correct the source's path in params.yaml, or give a path with --from")
    test_folders = [root / name for name in _TEST_NAMES if (root / name).is_dir()]
    if (root / "train").is_dir() and not test_folders:
        root = root / "train"
    if test_folders and (root / "train").is_dir():
        folders = {"train": root / "train", "test": test_folders[0]}
        splits = {split: _list_images_by_class(folder) for split, folder in folders.items()}
        class_names = sorted(splits["train"])
        if sorted(splits["test"]) != class_names:
            different = ", ".join(
                name or "(images without a class folder)" for name in sorted(set(splits["test"]) ^ set(class_names))
            )
            raise UserError(
                f"{folders['train']} and {folders['test']} must have the same class folders: add or remove what is "
                f"only in one of them: {different}"
            )
    else:
        classes = _list_images_by_class(root)
        class_names = sorted(classes)
        splits = {split: {} for split in raw.SPLITS}
        for class_name, files in classes.items():
            test_files = _choose_test_files(files, source.test_fraction)
            splits["train"][class_name] = [file for file in files if file not in test_files]
            splits["test"][class_name] = [file for file in files if file in test_files]

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split in raw.SPLITS:
            for label, class_name in enumerate(class_names):
                for file in splits[split][class_name]:
                    # A file name may contain bytes that are not valid UTF-8.
                    name = os.fsencode(file.relative_to(root)).decode("utf-8", "backslashreplace")
                    yield raw.EncodedImage(split, name, file.read_bytes(), label if class_name else raw.UNLABELED)

    return raw.RawDataset([name for name in class_names if name], iter_images())


def _list_images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the sorted images of each class; the key of images without a class folder is the empty string."""
    suffixes = Image.registered_extensions()

    def list_images(path: Path, pattern: str) -> list[Path]:
        files = (file for file in path.glob(pattern) if file.is_file() and not file.name.startswith("."))
        return sorted(file for file in files if file.suffix.lower() in suffixes)

    class_folders = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    images = list_images(folder, "*")
    if class_folders and images:
        raise UserError(
            f"{images[0]} is next to class folders: move all images in {folder} into class folders or elsewhere"
        )
    classes = {entry.name: list_images(entry, "**/*") for entry in sorted(class_folders)} or {"": images}
    for class_name, files in classes.items():
        if not files:
            hint = "remove this folder" if class_name else "correct the path of the source"
            raise UserError(f"{folder / class_name} has no images: add some (.jpg, .png, …), or {hint}")
    return classes


def _choose_test_files(files: list[Path], fraction: float) -> set[Path]:
    """Return the images of a class that form the test split: about `fraction` of its distinct images.

    At least one distinct image is left for training and, if there are others, at least one is chosen. The images are
    ranked by the SHA-256 of their bytes, so the split is the same on every machine, and copies of an image are in the
    same split.
    """
    hashes = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    ranked = sorted(set(hashes.values()))
    count = min(max(round(fraction * len(ranked)), 1), len(ranked) - 1)
    test_hashes = set(ranked[:count])
    return {file for file, digest in hashes.items() if digest in test_hashes}
