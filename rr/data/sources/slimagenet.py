"""SlimageNet64 (Antoniou, Patacchiola, Ochal & Storkey, 2020): 200 images of each ImageNet class, 64 × 64 pixels."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from rr.data import raw
from rr.data.archive import ArchiveLimits, FileTree, open_tree
from rr.data.folder_listing import file_suffix, image_suffixes
from rr.errors import UserError

URL = "https://zenodo.org/record/3672132"
CLASSES, PER_CLASS, TRAIN_PER_CLASS = 1000, 200, 160
# These limits are generous, because the size of the archive is not documented.
_LIMITS = ArchiveLimits(max_bytes=16 << 30, max_members=500_000)

FilesByClass = dict[str, list[str]]


def read_dataset(download_dir: Path, local_copy: Path | None) -> raw.RawDataset:
    """Return 160 training and 40 test images of each class.

    The paper does not specify which images of a class are for training. If there are `train` and `test` folders with
    the same classes, as the paper's code expects, they are the splits. Otherwise, the 160 images of each class with the
    smallest SHA-256 of "class/file" are for training. Folders with different classes are merged, because the published
    archive is split by class for few-shot learning.

    `local_copy` is a folder, zip archive or tar archive with one folder per class, or with train and test folders that
    contain the class folders.

    Raises:
        UserError: if there is no copy, or if the number of classes or images is wrong.
    """
    if local_copy is None:
        raise UserError(
            f"rr cannot download slimagenet64: get it from {URL}, then pass the archive or folder to --from, or "
            "set the source's 'path' to it in params.yaml"
        )
    tree = open_tree(local_copy, download_dir / "unpacked", _LIMITS)
    splits = _read_or_make_splits(tree, local_copy)
    class_names = sorted(splits["train"])
    if len(class_names) != CLASSES:
        raise UserError(
            f"{local_copy}: expected {CLASSES} classes, found {len(class_names)}: use a copy with one folder per "
            f"class, or with train and test folders that contain the class folders; the dataset is at {URL}"
        )

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split in raw.SPLITS:
            for label, class_name in enumerate(class_names):
                for file in splits[split][class_name]:
                    yield raw.EncodedImage(split, file, tree.read(file), label)

    return raw.RawDataset(class_names, iter_images(), CLASSES * PER_CLASS)


def _read_or_make_splits(tree: FileTree, path: Path) -> dict[str, FilesByClass]:
    """Return the image names of each class in each split."""
    folders = _group_by_folder(tree)
    if "train" in folders and "test" in folders:
        train, test = folders["train"], folders["test"]
        if train.keys() == test.keys():
            _check_image_counts({name: train[name] + test[name] for name in train}, path)
            if other := [name for name in sorted(train) if len(train[name]) != TRAIN_PER_CLASS]:
                raise UserError(
                    f"{path}: expected {TRAIN_PER_CLASS} training images of class {other[0]}, found "
                    f"{len(train[other[0]])}: use a copy with one folder per class, which rr splits itself"
                )
            return {"train": train, "test": test}
        if train.keys() & test.keys():
            different = sorted(train.keys() ^ test.keys())
            examples = ", ".join([*different[:5], *(["…"] if len(different) > 5 else [])])
            raise UserError(
                f"{path}: the folders train and test must contain the same classes, but these are in only one of them: "
                f"{examples}. Download the dataset again from {URL}"
            )
    merged: FilesByClass = {}
    for classes in folders.values():
        for class_name, files in classes.items():
            merged.setdefault(class_name, []).extend(files)
    _check_image_counts(merged, path)
    ranked = {class_name: sorted(files, key=_hash_name) for class_name, files in merged.items()}
    return {
        "train": {class_name: sorted(files[:TRAIN_PER_CLASS]) for class_name, files in ranked.items()},
        "test": {class_name: sorted(files[TRAIN_PER_CLASS:]) for class_name, files in ranked.items()},
    }


def _check_image_counts(classes: FilesByClass, path: Path) -> None:
    for class_name, files in sorted(classes.items()):
        if len(files) != PER_CLASS:
            raise UserError(
                f"{path}: expected {PER_CLASS} images of class {class_name}, found {len(files)}: "
                f"download the dataset again from {URL}"
            )


def _group_by_folder(tree: FileTree) -> dict[str, FilesByClass]:
    """Group the images by the folder above their class folder (train, val, test or any other), then by class."""
    folders: dict[str, FilesByClass] = {}
    for name in tree.names:
        parent, _, filename = name.rpartition("/")
        folder, _, class_name = parent.rpartition("/")
        if class_name and file_suffix(filename) in image_suffixes():
            folders.setdefault(folder.rpartition("/")[2], {}).setdefault(class_name, []).append(name)
    return folders


def _hash_name(name: str) -> str:
    """Return the SHA-256 of "class/file", which does not depend on the folders above."""
    return hashlib.sha256("/".join(name.split("/")[-2:]).encode()).hexdigest()
