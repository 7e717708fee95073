"""Read the `digits` dataset: 1,797 scanned handwritten digits that come with scikit-learn."""

from collections.abc import Iterator

import numpy as np

from rr.data import raw
from rr.params import DigitsSource

CLASSES = 10
TEST_PER_CLASS = 36
NUM_TRAIN = 1797 - CLASSES * TEST_PER_CLASS
_MAX_VALUE = 16  # maximum pixel value; a value is the number of black pixels in a 4 × 4 block of the scan


def read_dataset(source: DigitsSource) -> raw.RawDataset:
    """Return the gray images of 8 × 8 pixels, with white digits on black.

    The test split consists of 36 images of each class, selected by `source.seed`. Both splits contain digits by the
    same writers.
    """
    from sklearn.datasets import load_digits  # the import takes a second

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _MAX_VALUE)).astype(np.uint8)
    order = np.random.Generator(np.random.Philox(key=source.seed)).permutation(len(pixels))
    test = np.sort(np.concatenate([order[digits.target[order] == label][:TEST_PER_CLASS] for label in range(CLASSES)]))
    rows = {"train": np.setdiff1d(np.arange(len(pixels)), test), "test": test}

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split in raw.SPLITS:
            for row in rows[split]:
                yield raw.EncodedImage(split, f"{row}.png", raw.encode_png(pixels[row]), int(digits.target[row]))

    return raw.RawDataset([str(label) for label in range(CLASSES)], iter_images(), len(pixels))
