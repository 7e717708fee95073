"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), parsed by torchvision."""

import pickle
from collections.abc import Iterator
from pathlib import Path

from rr.data import raw
from rr.data.sources.torchvision_archive import ensure_extracted
from rr.params import CifarSource


def read_dataset(source: CifarSource, download_dir: Path, local_copy: Path | None) -> raw.RawDataset:
    """Return the 50,000 training and 10,000 test images of 32 × 32 pixels in the official order.

    The kind `cifar100_20` consists of the CIFAR-100 images with the 20 coarse labels. No file is unpickled before its
    MD5 has been verified.

    See `ensure_extracted` for `local_copy`.

    Raises:
        UserError: if a file is missing, if a checksum differs, or if the download fails.
    """
    from torchvision import datasets

    dataset = datasets.CIFAR10 if source.kind == "cifar10" else datasets.CIFAR100
    files = [(name, md5) for name, md5 in dataset.train_list + dataset.test_list]
    files.append((dataset.meta["filename"], dataset.meta["md5"]))
    folder = ensure_extracted(dataset, files, local_copy, download_dir)
    parts = [(split, dataset(root=str(folder.parent), train=split == "train")) for split in raw.SPLITS]

    class_names = list(parts[0][1].classes)
    labels = {split: part.targets for split, part in parts}
    if source.kind == "cifar100_20":
        class_names = _unpickle_entry(folder / "meta", "coarse_label_names")
        labels = {split: _unpickle_entry(folder / split, "coarse_labels") for split in raw.SPLITS}

    def iter_all_splits() -> Iterator[raw.EncodedImage]:
        for split, part in parts:
            for position, (image, label) in enumerate(zip(part.data, labels[split], strict=True)):
                yield raw.EncodedImage(split, f"{split}/{position}.png", raw.encode_png(image), label)

    return raw.RawDataset(class_names, iter_all_splits(), sum(len(part) for _, part in parts))


def _unpickle_entry(path: Path, key: str) -> list:
    """Return an entry of a CIFAR-100 file that torchvision does not provide. The MD5 must have been verified."""
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")[key]
