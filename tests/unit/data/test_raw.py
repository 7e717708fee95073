"""Tests of the raw file format."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rr.data import raw
from rr.errors import UserError


def make_images(count: int = 4) -> list[raw.EncodedImage]:
    data = raw.encode_png(np.zeros((8, 8, 3), np.uint8))
    return [raw.EncodedImage("train" if i < count - 1 else "test", f"{i}.png", data, i % 2) for i in range(count)]


def test_written_raw_file_is_read_back_and_follows_hugging_face(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    assert raw.write(path, raw.RawDataset(["cat", "dog"], make_images())) == {"train": 3, "test": 1}
    raw_file = raw.RawFile(path)
    assert raw_file.class_names == ["cat", "dog"]
    assert raw_file.labels.tolist() == [0, 1, 0, 1]
    assert raw_file.splits.tolist() == ["train"] * 3 + ["test"]
    assert [name for name, _ in raw_file.iter_images()] == ["0.png", "1.png", "2.png", "3.png"]
    table = pq.read_table(path)
    assert table.schema.field("image").type.get_field_index("bytes") == 0
    assert json.loads(table.schema.metadata[b"class_names"]) == ["cat", "dog"]


def test_empty_split_raises_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the test split has no images"):
        raw.write(tmp_path / "images.parquet", raw.RawDataset([], make_images()[:3]))
    assert list(tmp_path.iterdir()) == []


def test_damaged_raw_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    raw.write(path, raw.RawDataset(["a", "b"], make_images()))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="run rr fetch again"):
        raw.RawFile(path)
