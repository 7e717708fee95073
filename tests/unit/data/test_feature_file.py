"""Tests of the feature file."""

from pathlib import Path

import numpy as np
import pytest

from rr.data.feature_file import SplitFeatures, read_features, write_features
from rr.errors import UserError


def make_split(count: int) -> SplitFeatures:
    rng = np.random.default_rng(count)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    return SplitFeatures(features, rng.integers(0, 4, count), np.arange(count) + 100)


def test_written_features_are_read_and_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    splits = {"train": make_split(7), "test": make_split(2)}
    for name in ("first", "second"):
        write_features(tmp_path / name, splits)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    for split, expected in splits.items():
        stored = read_features(tmp_path / "first", split)
        assert len(stored) == len(expected)
        for name, array in vars(expected).items():
            actual = getattr(stored, name)
            assert np.array_equal(actual, array)
            assert actual.dtype == array.dtype


@pytest.mark.parametrize("content", [None, b"", b"damaged", b"\xff" * 100])
def test_missing_or_damaged_file_raises(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "features.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"features\.safetensors is missing or damaged .*: run rr extract again"):
        read_features(path, "train")


def test_file_without_the_split_raises(tmp_path: Path) -> None:
    write_features(tmp_path / "features.safetensors", {"train": make_split(3)})
    with pytest.raises(UserError, match="run rr extract again"):
        read_features(tmp_path / "features.safetensors", "test")
