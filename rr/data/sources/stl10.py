"""STL-10 (Coates, Ng & Lee, 2011; https://cs.stanford.edu/~acoates/stl10): images of 96 × 96 pixels from ImageNet.

A file `…_X.bin` holds uint8 (N, 3, columns, rows): each image is stored channel by channel, in column-major order.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rr.data import raw
from rr.data.sources.torchvision_archive import ensure_extracted
from rr.errors import UserError
from rr.params import Stl10Source

_SIZE = 96
_BYTES_PER_IMAGE = 3 * _SIZE * _SIZE


def read_dataset(source: Stl10Source, download_dir: Path, local_copy: Path | None) -> raw.RawDataset:
    """Return the 5,000 labeled training and 8,000 test images in the official order.

    The kind `stl10_unlabeled` consists of the 100,000 unlabeled images for training and the same 8,000 test images
    without their labels.

    See `ensure_extracted` for `local_copy`.

    Raises:
        UserError: if a file is missing, if a checksum differs, or if the download fails.
    """
    from torchvision.datasets import STL10

    labeled = source.kind == "stl10"
    # Names and MD5s in torchvision's lists: train_X, train_y, unlabeled_X; test_X, test_y.
    (*train_files, unlabeled_file), test_files = STL10.train_list, STL10.test_list
    files = [*train_files, *test_files] if labeled else [unlabeled_file, test_files[0]]
    folder = ensure_extracted(STL10, [(name, md5) for name, md5 in files], local_copy, download_dir)

    def iter_all_splits() -> Iterator[raw.EncodedImage]:
        for split, name in (("train", "train" if labeled else "unlabeled"), ("test", "test")):
            path = folder / f"{name}_X.bin"
            labels = np.full(path.stat().st_size // _BYTES_PER_IMAGE, raw.UNLABELED)
            if labeled:
                # In the file, labels start at 1.
                labels = np.fromfile(folder / f"{name}_y.bin", np.uint8).astype(int) - 1
            for position, (pixels, label) in enumerate(zip(_iter_pixels(path), labels, strict=True)):
                yield raw.EncodedImage(split, f"{name}/{position}.png", raw.encode_png(pixels), int(label))

    class_names = _read_class_names(folder / STL10.class_names_file) if labeled else []
    return raw.RawDataset(class_names, iter_all_splits())


def _iter_pixels(path: Path) -> Iterator[np.ndarray]:
    """Yield the images of a `_X.bin` file, uint8 (96, 96, 3). They are read one by one, to save memory."""
    with open(path, "rb") as file:
        while (image := np.fromfile(file, np.uint8, _BYTES_PER_IMAGE)).size:
            # From (channel, column, row) to (row, column, channel).
            yield np.ascontiguousarray(image.reshape(3, _SIZE, _SIZE).transpose(2, 1, 0))


def _read_class_names(path: Path) -> list[str]:
    # No MD5 of this file is published, so only the number of distinct names is checked.
    class_names = path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []
    if not len(class_names) == len(set(class_names)) == 10:
        raise UserError(
            f"{path}: expected 10 distinct class names, found {len(class_names)} ({len(set(class_names))} of them "
            "distinct): extract the official archive again, or use the archive itself with --from"
        )
    return class_names
