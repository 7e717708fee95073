"""Test the inputs of the evaluation protocols."""

from pathlib import Path

import numpy as np
from evaluation_inputs import make_inputs

from rr.data.beton import encode_photograph, max_photograph_bytes, write_stored
from rr.data.feature_file import SplitFeatures
from rr.params import DatasetConfig, ShapesSource


def test_photographs_of_several_batches_are_read(tmp_path: Path) -> None:
    """All pixels of a photograph have the value of its row."""
    rows = np.arange(200)
    stored = (encode_photograph(np.full((16, 20, 3), row, np.uint8), "raw") for row in rows)
    write_stored(tmp_path / "test", stored, rows % 3, rows, max_photograph_bytes(16))
    dataset = DatasetConfig(
        source=ShapesSource(kind="shapes", train=10, test=10, seed=0), image_size=8, stored_size=16,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )  # fmt: skip
    split = SplitFeatures(np.zeros((200, 1), np.float32), rows % 3, rows)
    inputs = make_inputs(split, split, {"test": tmp_path / "test"}, dataset, ["a", "b", "c"])
    positions = rows[::-1].copy()
    images = inputs.read_images("test", positions)
    assert images.shape == (200, 8, 8, 3)
    assert np.array_equal(images[:, 4, 4, 0], positions)
