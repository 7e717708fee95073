"""STL-10 (Coates, Ng & Lee, 2011; https://cs.stanford.edu/~acoates/stl10): pictures of 96 × 96 from ImageNet.

Each file `…_X.bin` holds uint8 (n, 3, columns, rows): a picture's channels one after another, each column by column.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rr.data import raw
from rr.data.sources.official import unpacked
from rr.errors import UserError
from rr.params import Stl10Source

_SIDE = 96


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
            images = np.memmap(folder / f"{name}_X.bin", np.uint8, mode="r").reshape(-1, 3, _SIDE, _SIDE)
            numbers = np.full(len(images), raw.UNLABELLED)
            if labelled:
                numbers = np.fromfile(folder / f"{name}_y.bin", np.uint8).astype(int) - 1  # they count from 1
            for position, (image, label) in enumerate(zip(images, numbers, strict=True)):
                # From (channel, column, row) to (row, column, channel).
                pixels = np.ascontiguousarray(image.transpose(2, 1, 0))
                yield raw.Picture(split, f"{name}/{position}.png", raw.encode(pixels), int(label))

    return raw.Pictures(_class_names(folder / STL10.class_names_file) if labelled else [], rows())


def _class_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: unpack the official archive again, or name that with --from") from error
