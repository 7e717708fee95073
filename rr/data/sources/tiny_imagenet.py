"""Tiny-ImageNet (Stanford CS231n, 2015): 200 ImageNet classes as JPEG images of 64 × 64 pixels.

The archive contains `wnids.txt`, the WordNet IDs of the classes; `words.txt`, the IDs and names of all ImageNet
classes; `train/<ID>/images/*.JPEG`; and `val/images/*.JPEG`, whose classes are in `val/val_annotations.txt` (file, ID,
bounding box). Its `test` folder has no labels and is not used.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rr.data import raw
from rr.data.archive import ArchiveLimits, FileTree, open_tree
from rr.data.download import download_file
from rr.errors import UserError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CLASSES, TRAIN_PER_CLASS, TEST = 200, 500, 10_000
_LIMITS = ArchiveLimits(max_bytes=2 << 30, max_members=200_000)  # the official archive has about 120,600 members
_HINT = "delete this copy and download the official archive again"


def read_dataset(download_dir: Path, local_copy: Path | None) -> raw.RawDataset:
    """Return the 500 training images of each class, and the 10,000 official validation images as test images.

    The authors of the dataset publish no checksum. A downloaded archive must have the MD5 that other libraries use to
    verify it. A local copy may be packed differently, so its checksum is not verified, but the numbers of training
    images per class and of validation images are.

    `local_copy` is the official archive, or a folder that holds the archive or its contents. If it is None, the archive
    is downloaded.

    Raises:
        UserError: if the download fails, if the archive is damaged, or if the number of images is wrong.
    """
    filename = Path(URL).name
    path = local_copy or download_dir / filename
    if local_copy is None:
        download_file(URL, path, MD5)
    elif (local_copy / filename).is_file():
        path = local_copy / filename
    tree = open_tree(path, download_dir / "unpacked", _LIMITS)
    root = next((name.removesuffix("wnids.txt") for name in tree.names if Path(name).name == "wnids.txt"), None)
    if root is None:
        raise UserError(f"{path} contains no wnids.txt: use the official {filename}, or the folder extracted from it")
    wnids = sorted(_read_lines(tree, f"{root}wnids.txt", path))
    if len(wnids) != CLASSES:
        raise UserError(f"{path}: expected {CLASSES} classes, found {len(wnids)}: {_HINT}")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    splits = {"train": _list_train_images(tree, root, labels, path), "test": _list_val_images(tree, root, labels, path)}
    class_names = _make_class_names(wnids, _read_lines(tree, f"{root}words.txt", path))

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split, images in splits.items():
            for name, label in images:
                yield raw.EncodedImage(split, name.removeprefix(root), tree.read(name), label)

    return raw.RawDataset(class_names, iter_images(), sum(map(len, splits.values())))


def _list_train_images(tree: FileTree, root: str, labels: dict[str, int], path: Path) -> list[tuple[str, int]]:
    """Return the name and the label of each training image, sorted by label."""
    images = []
    for name in tree.names:
        match name.removeprefix(root).split("/"):
            case ["train", wnid, "images", _] if wnid in labels:
                images.append((name, labels[wnid]))
    counts = Counter(label for _, label in images)
    for wnid, label in labels.items():
        if counts[label] != TRAIN_PER_CLASS:
            raise UserError(
                f"{path}: expected {TRAIN_PER_CLASS} images in train/{wnid}, found {counts[label]}: {_HINT}"
            )
    return sorted(images, key=lambda image: (image[1], image[0]))


def _list_val_images(tree: FileTree, root: str, labels: dict[str, int], path: Path) -> list[tuple[str, int]]:
    """Return the name and the label of each validation image, in the order of the annotations."""
    names = set(tree.names)
    images: dict[str, int] = {}
    for number, line in enumerate(_read_lines(tree, f"{root}val/val_annotations.txt", path), 1):
        file, wnid, *_ = [*line.split("\t"), ""]
        name = f"{root}val/images/{file}"
        if name not in names or wnid not in labels or name in images:
            raise UserError(
                f"{path}: val/val_annotations.txt, line {number}: the image {file!r} or the class {wnid!r} does not "
                f"exist, or the image is listed twice: {_HINT}"
            )
        images[name] = labels[wnid]
    if len(images) != TEST:
        raise UserError(f"{path}: expected {TEST} annotated images in val, found {len(images)}: {_HINT}")
    return list(images.items())


def _make_class_names(wnids: list[str], lines: list[str]) -> list[str]:
    """Return the first name of each class, followed by its WordNet ID if two classes share that name."""
    words = dict(line.partition("\t")[::2] for line in lines)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]


def _read_lines(tree: FileTree, name: str, path: Path) -> list[str]:
    """Return the non-blank lines of a text file in the tree; the error message names `path`."""
    if name not in tree.names:
        raise UserError(f"{path} contains no {name}: {_HINT}")
    return [line for line in tree.read(name).decode("utf-8", "replace").splitlines() if line.strip()]
