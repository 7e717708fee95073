"""STL-10 (Coates, Ng & Lee, 2011; https://cs.stanford.edu/~acoates/stl10): pictures of 96 × 96 from ImageNet.

Each file `…_X.bin` holds uint8 (n, 3, columns, rows): a picture's channels one after another, each column by column.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rr.data import raw
from rr.data.sources.torchvision_archive import unpacked
from rr.errors import UserError
from rr.params import Stl10Source

_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE


def pictures(source: Stl10Source, download: Path, local: Path | None) -> raw.Pictures:
    """Yield the 5,000 labelled training and 8,000 test pictures in the official order.

    The kind `stl10_unlabelled` has the 100,000 unlabelled pictures for training; its test pictures are the same 8,000,
    without their labels.

    `local`: the official archive, or a folder with it or its contents.
    Raises UserError for a wrong checksum or a failed download.
    """
    from torchvision.datasets import STL10

    labelled = source.kind == "stl10"
    # File and md5 of each, as torchvision lists them: train_X, train_y, unlabeled_X; test_X, test_y.
    (*train, unlabelled), test = STL10.train_list, STL10.test_list
    files = [*train, *test] if labelled else [unlabelled, test[0]]
    folder = unpacked(STL10, [(name, md5) for name, md5 in files], local, download)

    def rows() -> Iterator[raw.Picture]:
        for split, name in (("train", "train" if labelled else "unlabeled"), ("test", "test")):
            images = folder / f"{name}_X.bin"
            numbers = np.full(images.stat().st_size // _BYTES, raw.UNLABELLED)
            if labelled:
                numbers = np.fromfile(folder / f"{name}_y.bin", np.uint8).astype(int) - 1  # they count from 1
            for position, (pixels, label) in enumerate(zip(_pixels(images), numbers, strict=True)):
                yield raw.Picture(split, f"{name}/{position}.png", raw.encode(pixels), int(label))

    return raw.Pictures(_class_names(folder / STL10.class_names_file) if labelled else [], rows())


def _pixels(images: Path) -> Iterator[np.ndarray]:
    """Read uint8 (96, 96, 3) pictures one by one: a map of the file would count as 3 GB of memory."""
    with open(images, "rb") as file:
        while (picture := np.fromfile(file, np.uint8, _BYTES)).size:
            # From (channel, column, row) to (row, column, channel).
            yield np.ascontiguousarray(picture.reshape(3, _SIDE, _SIDE).transpose(2, 1, 0))


def _class_names(path: Path) -> list[str]:
    # No md5 of this file is listed.
    names = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if len(names) != 10:
        raise UserError(f"{path} does not list 10 classes: unpack the official archive again, or name that with --from")
    return names
