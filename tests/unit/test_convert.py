"""Tests of `rr convert`: photographs of any size, numbers of threads, computed mean and std, and error messages."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from rr.convert import convert, mean_and_std
from rr.data import beton, raw
from rr.data.index import Preprocessing, read_class_names, read_preprocessing
from rr.errors import UserError
from rr.params import DatasetConfig, ShapesSource

SIZES = [(60, 40), (40, 60), (33, 33), (20, 90), (15, 10), (64, 48), (48, 48), (41, 100)]  # width, height
SOURCE = ShapesSource(kind="shapes", train=10, test=10, seed=0)


def encode(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def smooth(number: int, size: tuple[int, int]) -> np.ndarray:
    colors = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC))


@pytest.fixture
def raw_path(tmp_path: Path) -> Path:
    """A raw file of 24 training and 8 test images of eight sizes."""
    images = [
        raw.EncodedImage("train" if number < 24 else "test", f"{number}.png", encode(smooth(number, size)), number % 2)
        for number, size in enumerate(SIZES * 4)
    ]
    raw.write(tmp_path / "images.parquet", raw.RawDataset(["a", "b"], images))
    return tmp_path / "images.parquet"


def run(raw_path: Path, folder: Path, threads: int = 2, **keys: Any) -> dict[str, Any]:
    folder.mkdir()
    config = DatasetConfig(source=SOURCE, **({"image_size": 16} | keys))
    betons = {split: folder / f"{split}.beton" for split in raw.SPLITS}
    return convert(raw_path, config, betons, folder / "index.parquet", threads=threads)


@pytest.mark.parametrize("keys", [{}, {"stored_size": 32}, {"stored_size": 32, "quality": "raw"}])
def test_any_number_of_threads_gives_the_same_bytes(raw_path: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    facts = [run(raw_path, tmp_path / str(threads), threads, **keys) for threads in (1, 2, 5)]
    assert facts[0] == facts[1] == facts[2]
    for name in ("train.beton", "test.beton", "index.parquet"):
        first, *others = ((tmp_path / str(threads) / name).read_bytes() for threads in (1, 2, 5))
        assert all(other == first for other in others)


def test_squares_are_stored_as_before(raw_path: Path, tmp_path: Path) -> None:
    run(raw_path, tmp_path / "x")
    images = [raw.decode_image(data, 16) for _, data in raw.RawFile(raw_path).iter_images()]
    assert np.array_equal(beton.Beton(tmp_path / "x/train.beton", threads=1).images, images[:24])
    expected = [np.asarray(ImageOps.fit(Image.fromarray(smooth(3, SIZES[3])), (16, 16), Image.Resampling.BICUBIC))]
    assert np.array_equal(images[3:4], expected)


def stored_images(path: Path) -> list[np.ndarray]:
    """Read the photographs of a beton without FFCV."""
    info = beton.validate(path, photographs=True)
    samples = np.fromfile(
        path, beton._SAMPLE, len(info.labels), offset=beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    )
    content, images = path.read_bytes(), []
    for image in samples["image"]:
        start, shape = int(image["pointer"]), (int(image["height"]), int(image["width"]), 3)
        if image["mode"] == 1:
            images.append(np.frombuffer(content, np.uint8, shape[0] * shape[1] * 3, start).reshape(shape))
        else:
            images.append(np.asarray(Image.open(io.BytesIO(content[start:]))))
            assert images[-1].shape == shape
    return images


@pytest.mark.parametrize("quality", ["raw", 90])
def test_photographs_keep_their_aspect_ratio_and_are_never_enlarged(
    raw_path: Path, tmp_path: Path, quality: int | str
) -> None:
    run(raw_path, tmp_path / "x", stored_size=32, quality=quality)
    images = stored_images(tmp_path / "x/train.beton")
    sizes = [(48, 32), (32, 48), (32, 32), (20, 90), (15, 10), (43, 32), (32, 32), (32, 78)]  # width, height
    assert [image.shape[1::-1] for image in images] == sizes * 3
    for number, image in enumerate(images):
        original = smooth(number, SIZES[number % 8])
        expected = np.asarray(Image.fromarray(original).resize(sizes[number % 8], Image.Resampling.BICUBIC))
        difference = np.abs(image.astype(int) - expected)
        assert difference.max() == 0 if quality == "raw" else difference.mean() < 6


def test_each_photograph_is_stored_as_jpeg_only_if_that_is_smaller() -> None:
    tiny, large = smooth(0, (5, 5)), smooth(0, (200, 100))
    assert beton.encode_photograph(tiny, 90).mode == 1
    assert beton.encode_photograph(large, 90).mode == 0
    assert beton.encode_photograph(large, "raw").mode == 1
    assert len(beton.encode_photograph(large, 50).data) < len(beton.encode_photograph(large, 90).data)


def test_large_jpeg_is_decoded_at_a_reduced_size() -> None:
    """The result hardly differs from that of decoding at full size."""
    pixels = smooth(1, (1600, 1200))
    decoded = raw.decode_photograph(encode(pixels, "JPEG"), 64)
    expected = np.asarray(Image.fromarray(pixels).resize((85, 64), Image.Resampling.BICUBIC))
    assert decoded.shape == (64, 85, 3)
    assert np.abs(decoded.astype(int) - expected).mean() < 1.5


def test_mean_and_std_are_those_of_the_training_pixels(raw_path: Path, tmp_path: Path) -> None:
    for name, keys in (("squares", {}), ("photographs", {"stored_size": 32, "quality": "raw"})):
        facts = run(raw_path, tmp_path / name, **keys)
        path = tmp_path / name / "train.beton"
        images = stored_images(path) if keys else beton.Beton(path, threads=1).images
        pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255  # type: ignore[union-attr]
        preprocessing = read_preprocessing(tmp_path / name / "index.parquet")
        assert preprocessing.mean == pytest.approx(pixels.mean(0), rel=1e-12)
        assert preprocessing.std == pytest.approx(pixels.std(0), rel=1e-9)
        assert (preprocessing.image_size, preprocessing.stored_size) == (16, keys.get("stored_size"))
        assert facts["preprocessing"]["mean"] == preprocessing.mean


def test_given_mean_and_std_are_used(raw_path: Path, tmp_path: Path) -> None:
    run(raw_path, tmp_path / "x", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    index = tmp_path / "x/index.parquet"
    assert read_preprocessing(index) == Preprocessing(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert read_class_names(index) == ["a", "b"]


def test_std_of_a_constant_channel_is_replaced() -> None:
    histogram = np.zeros((3, 256), np.int64)
    histogram[0, [0, 255]] = 5  # mean 0.5, std 0.5
    histogram[1, 51] = 10  # constant
    histogram[2, [100, 102]] = 10**15  # the sums of squares exceed 64 bits
    mean, std = mean_and_std(histogram)
    assert mean == pytest.approx((0.5, 0.2, 101 / 255))
    assert std == pytest.approx((0.5, 1.0, 1 / 255))


def test_index_without_preprocessing_raises(raw_path: Path, tmp_path: Path) -> None:
    run(raw_path, tmp_path / "x")
    index = tmp_path / "x/index.parquet"
    table = pq.read_table(index)
    metadata = {b"class_names": table.schema.metadata[b"class_names"]}
    pq.write_table(table.replace_schema_metadata(metadata), index)
    with pytest.raises(UserError, match=r"index\.parquet is missing, damaged or lacks the preprocessing"):
        read_preprocessing(index)
    with pytest.raises(UserError, match="run rr convert"):
        read_preprocessing(tmp_path / "missing")


def test_photograph_larger_than_a_page_raises(tmp_path: Path) -> None:
    panorama = encode(np.zeros((40, 20_000, 3), np.uint8))
    images = [raw.EncodedImage(split, f"{split}.png", panorama, -1) for split in raw.SPLITS]
    raw.write(tmp_path / "images.parquet", raw.RawDataset([], images))
    with pytest.raises(UserError, match=r"train\.png would take up 2,400,000 bytes \(20000 × 40 pixels\).*2,097,152"):
        run(tmp_path / "images.parquet", tmp_path / "x", stored_size=40, quality="raw")
    run(tmp_path / "images.parquet", tmp_path / "y", stored_size=40)  # as JPEG, it fits


@pytest.mark.parametrize("quality", [90, "raw"])
def test_photograph_with_too_long_a_side_raises(tmp_path: Path, quality: int | str) -> None:
    panorama = encode(np.zeros((1, 66_000, 3), np.uint8))
    images = [raw.EncodedImage(split, f"{split}.png", panorama, -1) for split in raw.SPLITS]
    raw.write(tmp_path / "images.parquet", raw.RawDataset([], images))
    with pytest.raises(UserError, match=r"train\.png would have 66000 × 1 pixels, and the maximum is 65500 on each"):
        run(tmp_path / "images.parquet", tmp_path / "x", stored_size=40, quality=quality)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    images = [raw.EncodedImage(split, f"{split}.png", encode(smooth(0, (9, 9)))[:50], -1) for split in raw.SPLITS]
    raw.write(tmp_path / "images.parquet", raw.RawDataset([], images))
    with pytest.raises(UserError, match=r"train\.png cannot be decoded"):
        run(tmp_path / "images.parquet", tmp_path / "x", threads=3)
