"""Tests of image decoding and of the raw file format."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rr.data import raw
from rr.errors import UserError


def to_png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_png_is_lossless() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(raw.decode_image(raw.encode_png(pixels), 32), pixels)


def test_gray_and_palette_images_become_rgb() -> None:
    gray = Image.fromarray(np.full((9, 9), 77, np.uint8))
    assert (raw.decode_image(to_png(gray)) == 77).all()
    palette = Image.new("RGB", (9, 9), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert tuple(raw.decode_image(to_png(palette))[0, 0]) == (10, 200, 30)


def test_16_bit_values_are_scaled() -> None:
    image = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert (raw.decode_image(to_png(image)) == 128).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_values_raise(kind: type) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, kind)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="no defined range"):
        raw.decode_image(buffer.getvalue())


def test_transparent_pixels_become_white() -> None:
    transparent = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (raw.decode_image(to_png(transparent)) == 255).all()


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated: the image must be turned clockwise
    pixels = raw.decode_image(to_png(image, exif=exif))
    assert pixels.shape == (16, 8, 3)
    assert pixels[:8].min() == 255
    assert pixels[8:].max() == 0


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (20, 20), (7, 300)])
def test_any_size_is_resized(size: tuple[int, int]) -> None:
    assert raw.decode_image(to_png(Image.new("RGB", size, "red")), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("data", [b"", b"not an image", raw.encode_png(np.zeros((40, 40, 3), np.uint8))[:60]])
def test_invalid_image_raises_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        raw.decode_image(data, 32)


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
