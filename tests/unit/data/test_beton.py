"""Tests of reading and writing betons with FFCV, and of validation before FFCV maps a file."""

import errno
import hashlib
import multiprocessing.heap
import multiprocessing.shared_memory
import multiprocessing.synchronize
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ffcv.loader.epoch_iterator import EpochIterator
from helpers import mount_tmpfs

from rr.data import beton
from rr.errors import UserError

COUNT, SIZE = 700, 16


def make_samples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    return images, rng.integers(-1, 10, COUNT), np.arange(1000, 1000 + COUNT)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("beton") / "train.beton"
    beton.write(target, *make_samples())
    return target


def test_written_beton_is_read_back(path: Path) -> None:
    images, labels, index = make_samples()
    data = beton.Beton(path, threads=2)
    assert data.images is not None
    assert np.array_equal(data.images, images)
    assert np.array_equal(data.labels, labels)
    assert np.array_equal(data.index, index)
    assert (data.image_size, len(data)) == (SIZE, COUNT)


def test_single_images_are_read_in_the_given_order(path: Path) -> None:
    positions = np.array([699, 0, 5, 5])
    assert np.array_equal(beton.read_images(path, positions), make_samples()[0][positions])
    assert beton.read_images(path, positions[:0]).shape == (0, SIZE, SIZE, 3)


def test_equal_input_gives_equal_bytes(path: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.beton"
    beton.write(second, *make_samples())
    assert hashlib.sha256(second.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_streamed_split_yields_same_batches(path: Path) -> None:
    resident, streamed = beton.Beton(path, threads=2), beton.Beton(path, threads=1, max_resident_bytes=0)
    assert streamed.images is None
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(COUNT)[: 300 + seed]
        pairs = zip(resident.batches(order, 64), streamed.batches(order, 64), strict=True)
        count = 0
        for images, streamed_images in pairs:
            assert np.array_equal(images, streamed_images)
            assert np.array_equal(images, resident.images[order[count : count + len(images)]])
            count += len(images)
        assert count == len(order)


@pytest.mark.parametrize(("size", "page_size"), [(836, 1 << 21), (837, 1 << 24), (1024, 1 << 24)])
def test_large_images_are_read_back(tmp_path: Path, size: int, page_size: int) -> None:
    """All sizes that params.yaml accepts work. FFCV stores an image within a page, so large images need large pages."""
    images = np.random.default_rng(size).integers(0, 256, (6, size, size, 3), np.uint8)
    beton.write(tmp_path / "x.beton", images, np.arange(6), np.arange(6))
    assert np.fromfile(tmp_path / "x.beton", beton._HEADER, 1)["page"] == page_size
    resident = beton.Beton(tmp_path / "x.beton", threads=1)
    streamed = beton.Beton(tmp_path / "x.beton", threads=1, max_resident_bytes=0)
    assert np.array_equal(resident.images, images)
    order = np.array([5, 0, 3])
    assert np.array_equal(np.concatenate([batch.copy() for batch in streamed.batches(order, 2)]), images[order])


def test_other_page_size_raises(path: Path, tmp_path: Path) -> None:
    content = bytearray(path.read_bytes())
    for page_size, message in ((1 << 22, "not an FFCV file"), (1 << 24, "is wrong for images of 16 × 16 pixels")):
        content[4:8] = page_size.to_bytes(4, "little")
        (tmp_path / "x.beton").write_bytes(content)
        with pytest.raises(UserError, match=message):
            beton.validate(tmp_path / "x.beton")


def test_writing_needs_no_shared_memory(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/psm_1234")

    monkeypatch.setattr(multiprocessing.shared_memory, "SharedMemory", fail)
    monkeypatch.setattr(multiprocessing.synchronize, "SemLock", fail)
    monkeypatch.setattr(multiprocessing.heap.Arena, "__init__", fail)
    beton.write(tmp_path / "x.beton", *make_samples())
    assert (tmp_path / "x.beton").read_bytes() == path.read_bytes()


def test_closing_an_epoch_early_ends_its_thread(path: Path) -> None:
    data = beton.Beton(path, threads=1, max_resident_bytes=0)
    before = threading.active_count()
    for _ in range(5):
        stream = data.batches(range(COUNT), 10)
        next(stream)
        stream.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "EpochIterator" in type(thread).__name__:
            thread.join(5)
    assert threading.active_count() <= before


def test_error_in_the_reading_thread_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: EpochIterator, number: int, *arguments: object) -> object:
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return run_pipeline(self, number, *arguments)

    run_pipeline = EpochIterator.run_pipeline
    monkeypatch.setattr(EpochIterator, "run_pipeline", fail)
    stream = beton.Beton(path, threads=1, max_resident_bytes=0).batches(range(COUNT), 10)
    assert [len(next(stream)) for _ in range(2)] == [10, 10]
    with pytest.raises(OSError, match="No space left"):
        next(stream)


def test_number_of_torch_threads_is_preserved(path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(beton.Beton(path, threads=1, max_resident_bytes=0).batches(range(20), 10))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_error_of_image_iterator_is_raised(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((8, 8, 3), np.uint8)
        raise UserError("the second image is broken")

    with pytest.raises(UserError, match="second image"):
        beton.write(tmp_path / "x.beton", broken(), np.zeros(2, np.int64), np.arange(2))


def test_full_disk_raises(tmp_path: Path) -> None:
    with mount_tmpfs(tmp_path / "disk", "size=3m"):
        images = (np.zeros((64, 64, 3), np.uint8) for _ in range(1000))
        with pytest.raises(OSError, match="No space left"):
            beton.write(tmp_path / "disk/x.beton", images, np.zeros(1000, np.int64), np.arange(1000))


def test_missing_or_invalid_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing: run rr convert"):
        beton.validate(tmp_path / "missing.beton")
    for content in (b"", b"hello", bytes(5000), b"\x02\x00" + bytes(10000)):
        (tmp_path / "x.beton").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.beton is not a valid beton of this project"):
            beton.validate(tmp_path / "x.beton")


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_truncated_file_raises(path: Path, tmp_path: Path, keep: float) -> None:
    content = path.read_bytes()
    (tmp_path / "x.beton").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="run rr convert again"):
        beton.Beton(tmp_path / "x.beton", threads=1)


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("header", "samples", 0, "does not match its number of samples, 0"),
        ("header", "samples", COUNT - 1, "does not match its number of samples, 699"),
        ("header", "allocation", 2**63, "does not match its number of samples"),
        ("fields", "type", 0, "or their types are not the ones that rr uses"),
        ("image", "mode", 0, "differ in size or are compressed"),
        ("image", "width", SIZE + 1, "differ in size or are compressed"),
        ("image", "height", SIZE - 1, "differ in size or are compressed"),
        ("image", "pointer", 0, "outside the file"),
        ("image", "pointer", 2**63, "outside the file"),
        ("image", "pointer", 2**64 - 1, "outside the file"),
        ("image", "pointer", 4000, "its allocation table does not match its images"),
        ("allocation", "pointer", 4000, "its allocation table does not match its images"),
        ("allocation", "size", SIZE**2 * 3 + 1, "its allocation table does not match its images"),
    ],
)
def test_changed_table_raises(path: Path, tmp_path: Path, table: str, field: str, value: int, message: str) -> None:
    """Each case changes a single field in the last row of a table."""
    content = bytearray(path.read_bytes())
    samples_start = beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    tables = {
        "header": np.frombuffer(content, beton._HEADER, 1),
        "fields": np.frombuffer(content, beton._FIELD, 3, beton._HEADER.itemsize),
        "image": np.frombuffer(content, beton._SAMPLE, COUNT, samples_start)["image"],
        "allocation": np.frombuffer(memoryview(content)[-COUNT * beton._ALLOCATION.itemsize :], beton._ALLOCATION),
    }
    tables[table][field][-1] = value
    (tmp_path / "x.beton").write_bytes(content)
    with pytest.raises(UserError, match=message):
        beton.validate(tmp_path / "x.beton")


def test_validation_does_not_import_ffcv(path: Path) -> None:
    code = "import sys; from pathlib import Path; from rr.data import beton; beton.validate(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('ffcv' in sys.modules)", str(path)], check=True)


def test_number_of_threads_is_limited_to_cores(path: Path) -> None:
    data = beton.Beton(path, threads=1000, max_resident_bytes=0)
    assert sum(len(images) for images in data.batches(range(COUNT), 64)) == COUNT
