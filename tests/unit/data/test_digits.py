"""Tests of the `digits` dataset, compared with scikit-learn."""

import io
from collections import Counter

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from rr.data import raw
from rr.data.sources.digits import read_dataset
from rr.params import DigitsSource


def read(seed: int) -> tuple[raw.RawDataset, list[raw.EncodedImage]]:
    dataset = read_dataset(DigitsSource(kind="digits", seed=seed))
    return dataset, list(dataset.images)


def test_images_and_labels_are_those_of_scikit_learn() -> None:
    digits = load_digits()
    dataset, images = read(seed=0)
    assert dataset.class_names == [str(name) for name in digits.target_names]
    rows = [int(image.name.removesuffix(".png")) for image in images]
    assert sorted(rows) == list(range(len(digits.target)))
    assert [image.label for image in images] == digits.target[rows].tolist()
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(image.data))) for image in images])
    assert (decoded.shape, decoded.dtype, decoded.max()) == ((1797, 8, 8), np.uint8, 255)
    assert np.array_equal(np.rint(decoded / 255 * 16), digits.images[rows])


def test_seed_selects_36_test_images_of_each_class() -> None:
    _, images = read(seed=0)
    assert [image.split for image in images] == ["train"] * 1437 + ["test"] * 360
    test = {image.name: image.label for image in images if image.split == "test"}
    assert Counter(test.values()) == dict.fromkeys(range(10), 36)
    assert [image.name for image in read(seed=0)[1]] == [image.name for image in images]
    assert test.keys() != {image.name for image in read(seed=1)[1] if image.split == "test"}
