"""Tests of the raw file format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rr.data import raw
from rr.errors import UserError


def make_images(count: int = 4) -> list[raw.EncodedImage]:
    data = [raw.encode_png(np.full((8, 8, 3), i, np.uint8)) for i in range(count)]
    return [raw.EncodedImage("train" if i < count - 1 else "test", f"{i}.png", data[i], i % 2) for i in range(count)]


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


def test_images_are_read_from_all_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_MAX_ROWS_PER_GROUP", 2)
    path, images = tmp_path / "images.parquet", make_images()
    raw.write(path, raw.RawDataset(["cat", "dog"], images))
    assert pq.read_metadata(path).num_row_groups == 2
    raw_file = raw.RawFile(path)
    assert list(raw_file.iter_images()) == [(image.name, image.data) for image in images]
    assert raw_file.read_images([0, 3]) == {0: images[0].data, 3: images[3].data}


def test_number_of_bytes_in_a_row_group_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images()
    monkeypatch.setattr(raw, "_MAX_BYTES_PER_GROUP", len(images[0].data) + len(images[1].data))
    raw.write(tmp_path / "images.parquet", raw.RawDataset(["cat", "dog"], images))
    assert pq.read_metadata(tmp_path / "images.parquet").num_row_groups == 2


@pytest.mark.parametrize("label", [-2, raw.MAX_CLASSES])
def test_label_out_of_range_raises_and_leaves_no_file(tmp_path: Path, label: int) -> None:
    first, *others = make_images()
    with pytest.raises(UserError, match=rf"0\.png: label {label} is out of range"):
        raw.write(tmp_path / "images.parquet", raw.RawDataset(["cat", "dog"], [first._replace(label=label), *others]))
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(("pixels", "got"), [(np.zeros((4, 4, 3)), "float64"), ([[0]], "list")])
def test_pixels_of_another_type_are_not_encoded(pixels: Any, got: str) -> None:
    with pytest.raises(
        ValueError, match=f"pixels must be an array of uint8, got {got}: convert the values to integers"
    ):
        raw.encode_png(pixels)
