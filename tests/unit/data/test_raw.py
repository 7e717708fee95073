"""Pictures of every kind come to RGB bytes; raw files and betons refuse what they are not."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rr.data import raw
from rr.errors import UserError


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(raw.decode(raw.encode(pixels), 32), pixels)


def test_grey_and_palette_become_rgb() -> None:
    grey = Image.fromarray(np.full((9, 9), 77, np.uint8))
    assert (raw.decode(png(grey)) == 77).all()
    palette = Image.new("RGB", (9, 9), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert tuple(raw.decode(png(palette))[0, 0]) == (10, 200, 30)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    wide = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert (raw.decode(png(wide)) == 128).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(kind: type) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, kind)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="no known range"):
        raw.decode(buffer.getvalue())


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (raw.decode(png(clear)) == 255).all()


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    pixels = raw.decode(png(picture, exif=exif))
    assert pixels.shape == (16, 8, 3)
    assert pixels[:8].min() == 255
    assert pixels[8:].max() == 0


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (20, 20), (7, 300)])
def test_any_size_comes_to_the_side(size: tuple[int, int]) -> None:
    assert raw.decode(png(Image.new("RGB", size, "red")), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("data", [b"", b"not a picture", raw.encode(np.zeros((40, 40, 3), np.uint8))[:60]])
def test_what_cannot_be_read_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        raw.decode(data, 32)


def rows(count: int = 4) -> list[raw.Picture]:
    data = raw.encode(np.zeros((8, 8, 3), np.uint8))
    return [raw.Picture("train" if i < count - 1 else "test", f"{i}.png", data, i % 2) for i in range(count)]


def test_a_raw_file_comes_back_and_opens_as_hugging_face_parquet(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    assert raw.write(path, raw.Pictures(["cat", "dog"], rows())) == {"train": 3, "test": 1}
    opened = raw.RawFile(path)
    assert opened.class_names == ["cat", "dog"]
    assert opened.labels.tolist() == [0, 1, 0, 1]
    assert opened.splits.tolist() == ["train"] * 3 + ["test"]
    assert [name for name, _ in opened.pictures()] == ["0.png", "1.png", "2.png", "3.png"]
    table = pq.read_table(path)
    assert table.schema.field("image").type.get_field_index("bytes") == 0
    assert json.loads(table.schema.metadata[b"class_names"]) == ["cat", "dog"]


def test_an_empty_split_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture for the test split"):
        raw.write(tmp_path / "images.parquet", raw.Pictures([], rows()[:3]))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_raw_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    raw.write(path, raw.Pictures(["a", "b"], rows()))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="run rr fetch again"):
        raw.RawFile(path)
