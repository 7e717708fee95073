"""Tests of `rr convert`: photographs of any size, numbers of threads, computed mean and std, and error messages."""

import errno
import io
import itertools
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import RunRr, write_params
from own_images import save_tree
from PIL import Image, ImageOps

from rr.convert import convert, mean_and_std
from rr.data import beton, image_decoding, raw
from rr.data.conversion_checkpoint import ConvertedImage, ConvertedParts
from rr.data.dataset_index import read_class_names, read_preprocessing
from rr.data.image_decoding import decode_image, decode_photograph
from rr.data.preprocessing import Preprocessing
from rr.errors import UserError
from rr.params import DatasetConfig, ShapesSource
from rr.runtime.atomic import atomic_write

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
    """A raw file with 24 training and 8 test images in eight sizes."""
    images = [
        raw.EncodedImage("train" if number < 24 else "test", f"{number}.png", encode(smooth(number, size)), number % 2)
        for number, size in enumerate(SIZES * 4)
    ]
    raw.write(tmp_path / "images.parquet", raw.RawDataset(["a", "b"], images))
    return tmp_path / "images.parquet"


def run(raw_path: Path, folder: Path, threads: int = 2, fingerprint: str = "", **keys: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    config = DatasetConfig(source=SOURCE, **({"image_size": 16} | keys))
    betons = {split: folder / f"{split}.beton" for split in raw.SPLITS}
    parts = ConvertedParts(folder / "parts", fingerprint)
    return convert(raw_path, config, betons, folder / "index.parquet", parts, threads=threads)


@pytest.mark.parametrize("keys", [{}, {"stored_size": 32}, {"stored_size": 32, "quality": "raw"}])
def test_any_number_of_threads_gives_the_same_bytes(raw_path: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    facts = [run(raw_path, tmp_path / str(threads), threads, **keys) for threads in (1, 2, 5)]
    assert facts[0] == facts[1] == facts[2]
    for name in ("train.beton", "test.beton", "index.parquet"):
        first, *others = ((tmp_path / str(threads) / name).read_bytes() for threads in (1, 2, 5))
        assert all(other == first for other in others)


class Decoder:
    """Counts the images that it decodes, and raises InterruptedError instead if there are more than `limit`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.limit = 0, math.inf
        for name in ("decode_image", "decode_photograph"):
            monkeypatch.setattr(image_decoding, name, partial(self.decode, getattr(image_decoding, name)))

    def decode(self, original: Any, data: bytes, size: int) -> np.ndarray:
        self.count += 1
        if self.count > self.limit:
            raise InterruptedError
        return original(data, size)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    """Count decoded images, and let each part of a conversion end after three images."""
    ticks = itertools.count()
    monkeypatch.setattr("rr.data.conversion_checkpoint.time", SimpleNamespace(monotonic=lambda: 10 * next(ticks)))
    return Decoder(monkeypatch)


@pytest.mark.parametrize("keys", [{}, {"stored_size": 32}, {"stored_size": 32, "quality": "raw"}])
@pytest.mark.parametrize("stop", [2, 10, 30])
def test_interrupted_conversion_continues_to_the_same_bytes(
    raw_path: Path, tmp_path: Path, keys: dict[str, Any], stop: int, decoder: Decoder, capsys: Any
) -> None:
    expected = run(raw_path, tmp_path / "x", **keys)
    decoder.count, decoder.limit = 0, stop
    with pytest.raises(InterruptedError):
        run(raw_path, tmp_path / "y", 1, **keys)
    decoder.count, decoder.limit = 0, math.inf
    assert run(raw_path, tmp_path / "y", 1, **keys) == expected
    assert decoder.count == {2: 32, 10: 32 - 9, 30: 32 - 24 - 6}[stop]
    assert ("continuing after" in capsys.readouterr().err) == (stop > 2)
    for name in ("train.beton", "test.beton", "index.parquet"):
        assert (tmp_path / "y" / name).read_bytes() == (tmp_path / "x" / name).read_bytes()


def test_command_continues_and_deletes_the_parts(project: Path, rr: RunRr, decoder: Decoder) -> None:
    save_tree(project / "images", {"a": 20, "b": 20})
    dataset = {"source": {"kind": "imagefolder", "path": "images"}, "image_size": 8}
    write_params(project, lambda params: params.update(threads=1, datasets={"m": dataset} | params["datasets"]))
    assert rr("fetch", "--dataset", "m").code == 0
    decoder.count, decoder.limit = 0, 10
    with pytest.raises(InterruptedError):
        rr("convert", "--dataset", "m")
    assert list((project / "data/unfinished/m").iterdir())
    decoder.count, decoder.limit = 0, math.inf
    outcome = rr("convert", "--dataset", "m")
    assert (outcome.code, decoder.count) == (0, 31)
    assert "convert: continuing after 9 train images\n" in outcome.err
    assert list((project / "data/unfinished").iterdir()) == []


@pytest.mark.parametrize("change", ["damage", "truncate", "fingerprint"])
def test_damaged_and_foreign_parts_are_not_used(raw_path: Path, tmp_path: Path, change: str, decoder: Decoder) -> None:
    expected = run(raw_path, tmp_path / "x")
    parts = sorted((tmp_path / "x/parts").iterdir())
    assert [part.name for part in parts[:2]] == ["test-000000.npz", "test-000001.npz"]
    content = (tmp_path / "x/parts/train-000001.npz").read_bytes()
    if change == "damage":
        content = content[:900] + bytes([content[900] ^ 1]) + content[901:]
    if change == "truncate":
        content = content[:900]
    (tmp_path / "x/parts/train-000001.npz").write_bytes(content)
    decoder.count = 0
    assert run(raw_path, tmp_path / "x", 1, "other" if change == "fingerprint" else "") == expected
    assert decoder.count == (32 if change == "fingerprint" else 32 - 3 - 6)


def test_part_that_begins_with_another_image_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier conversion with the same settings may have left parts of different sizes behind."""

    def convert(start: int) -> list[ConvertedImage]:
        return [
            ConvertedImage(
                beton.wrap_raw_pixels(np.full((1, 1, 3), number, np.uint8)), str(number), np.zeros((3, 256), np.int64)
            )
            for number in range(start, 12)
        ]

    parts = ConvertedParts(tmp_path, "settings")
    monkeypatch.setattr("rr.data.conversion_checkpoint._MAX_BYTES", 6)  # two images
    assert [image.sha256 for image in parts.resume("train", convert)] == [str(number) for number in range(12)]
    (tmp_path / "train-000000.npz").unlink()
    monkeypatch.setattr("rr.data.conversion_checkpoint._MAX_BYTES", 9)
    images = parts.resume("train", convert)
    assert [next(images).sha256 for _ in range(4)] == ["0", "1", "2", "3"]  # an interruption after the first part
    assert [image.sha256 for image in parts.resume("train", convert)] == [str(number) for number in range(12)]


def test_parts_that_cannot_be_written_are_given_up(
    raw_path: Path, tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(raw_path, tmp_path / "x")

    def fail(path: Path) -> None:
        if path.name == "train-000002.npz":
            raise OSError(errno.ENOSPC, "No space left on device")
        return atomic_write(path)

    monkeypatch.setattr("rr.data.conversion_checkpoint.atomic_write", fail)
    assert run(raw_path, tmp_path / "y") == expected
    assert not (tmp_path / "y/parts").exists()


def test_squares_are_stored_as_before(raw_path: Path, tmp_path: Path) -> None:
    run(raw_path, tmp_path / "x")
    images = [decode_image(data, 16) for _, data in raw.RawFile(raw_path).iter_images()]
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
    """The result is nearly identical to that of decoding at full size."""
    pixels = smooth(1, (1600, 1200))
    decoded = decode_photograph(encode(pixels, "JPEG"), 64)
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


def test_index_contains_the_names_of_the_images(raw_path: Path, tmp_path: Path) -> None:
    run(raw_path, tmp_path / "x")
    names = [name for name, _ in raw.RawFile(raw_path).iter_images()]
    assert len(set(names)) == len(names)
    assert pq.read_table(tmp_path / "x/index.parquet")["path"].to_pylist() == names


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
    with pytest.raises(UserError, match=r"index\.parquet is missing or damaged, or lacks the preprocessing"):
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
    message = r"train\.png would be stored with 66000 × 1 pixels, but the maximum is 65500 per side: crop the original"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "images.parquet", tmp_path / "x", stored_size=40, quality=quality)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    images = [raw.EncodedImage(split, f"{split}.png", encode(smooth(0, (9, 9)))[:50], -1) for split in raw.SPLITS]
    raw.write(tmp_path / "images.parquet", raw.RawDataset([], images))
    with pytest.raises(UserError, match=r"train\.png cannot be decoded"):
        run(tmp_path / "images.parquet", tmp_path / "x", threads=3)
