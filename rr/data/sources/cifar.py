"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), parsed by torchvision."""

import pickle
from collections.abc import Iterator
from pathlib import Path

from rr.data import raw
from rr.data.sources.torchvision_archive import unpacked
from rr.params import CifarSource


def pictures(source: CifarSource, download: Path, local: Path | None) -> raw.Pictures:
    """Yield the 50,000 training and 10,000 test pictures of 32 × 32 in the official order.

    The kind `cifar100_20` gives the pictures of CIFAR-100 their 20 coarse labels.

    `local`: the official archive, or a folder with it or its contents. Nothing is unpickled before
    its md5 has been compared. Raises UserError for a wrong checksum or a failed download.
    """
    from torchvision import datasets

    kind = datasets.CIFAR10 if source.kind == "cifar10" else datasets.CIFAR100
    files = [(name, md5) for name, md5 in kind.train_list + kind.test_list]
    folder = unpacked(kind, [*files, (kind.meta["filename"], kind.meta["md5"])], local, download)
    parts = [(split, kind(root=str(folder.parent), train=split == "train")) for split in raw.SPLITS]

    names = list(parts[0][1].classes)
    labels = {split: part.targets for split, part in parts}
    if source.kind == "cifar100_20":
        names = _entry(folder / "meta", "coarse_label_names")
        labels = {split: _entry(folder / split, "coarse_labels") for split in raw.SPLITS}

    def rows() -> Iterator[raw.Picture]:
        for split, part in parts:
            for position, (image, label) in enumerate(zip(part.data, labels[split], strict=True)):
                yield raw.Picture(split, f"{split}/{position}.png", raw.encode(image), label)

    return raw.Pictures(names, rows())


def _entry(path: Path, key: str) -> list:
    """What torchvision leaves unread of one of CIFAR-100's files, whose md5 has been compared."""
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")[key]
