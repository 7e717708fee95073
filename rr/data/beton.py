"""Read and write betons, the dataset files of FFCV. No other module imports ffcv.

The module works around four properties of FFCV 1.0.2. Importing ffcv sets torch to one thread, and creating or
iterating over a loader sets torch to the loader's number of workers. Writing with several processes gives a different
file each time, and hangs if one of them dies. The writer needs shared memory and semaphores, which are not available
if /dev/shm cannot be written; a single process replaces both by plain objects. FFCV maps files into memory, so a
damaged file can crash the process. Therefore `validate` checks a file before FFCV opens it.
"""

import importlib
import queue
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from rr.errors import UserError

_FIELDS = ("image", "label", "index")
MAX_RESIDENT_BYTES = 1 << 30  # splits whose pixels take up more bytes are streamed from the file
# FFCV never divides an image between two pages. A small page (FFCV's minimum size) can hold an image of 836 × 836
# pixels. A large page can hold five images of 1024 × 1024 pixels, so only a small part of it stays empty.
_SMALL_PAGE_SIZE, _LARGE_PAGE_SIZE = 1 << 21, 1 << 24
# Layout of version 2 of the format (`ffcv/types.py`). It is repeated here to validate a file without importing ffcv.
_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("allocation", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8")], align=True)
_FIELD_TYPES = (2, 1, 1)
_RAW_MODE = 1


@dataclass(frozen=True)
class BetonInfo:
    """The contents of a beton except the pixels.

    Attributes:
        labels: label of each image, int64 (N,).
        index: row of each image in the raw file, int64 (N,).
        image_size: height and width of the images in pixels.
        offsets: position of the first byte of each image in the file, int64 (N,).
    """

    labels: np.ndarray
    index: np.ndarray
    image_size: int
    offsets: np.ndarray


@contextmanager
def _preserve_torch_threads() -> Iterator[None]:
    """Restore torch's number of threads at the end of the block."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _import_ffcv_quickly() -> None:
    """Import ffcv, with a Python dict in place of its numba dictionary of image modes.

    The numba dictionary takes seconds to compile, but it has only two entries, and only Python code reads it.
    """
    with _preserve_torch_threads(), mock.patch("numba.typed.Dict", dict):
        importlib.import_module("ffcv")


def write(path: Path, images: Iterable[np.ndarray], labels: np.ndarray, index: np.ndarray) -> None:
    """Write images with their labels and indices to a beton.

    This process writes the samples in order, so equal inputs give byte-identical files, and errors of the disk or of
    the iterator `images` reach the caller.

    Args:
        path: file to write.
        images: N square RGB images of the same size, uint8 (S, S, 3).
        labels: labels of the images, int64 (N,).
        index: row of each image in the raw file, int64 (N,).
    """
    _import_ffcv_quickly()
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, worker_job_indexed_dataset

    class InProcessWriter(DatasetWriter):
        metadata_sm: Any

        def _write_common(self, num_samples, queue_content, work_fn, extra_worker_args):  # type: ignore[no-untyped-def]
            self.num_samples = num_samples
            self.prepare()
            chunks: queue.Queue[Any] = queue.Queue()
            for chunk in [*queue_content, None]:
                chunks.put(chunk)
            allocations: queue.Queue[Any] = queue.Queue()
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            worker_job_indexed_dataset(
                chunks, self.metadata_sm, self.metadata_type, self.fields, allocator, _LocalValue(), allocations,
                *extra_worker_args,
            )  # fmt: skip
            self.finalize(allocations.get())

    images = iter(images)
    first_image = next(images)
    samples = zip(chain([first_image], images), labels, index, strict=True)

    class SequentialDataset:
        """Makes the iterator `samples` indexable, as FFCV requires. Positions must be requested in order."""

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, position: int) -> tuple[np.ndarray, int, int]:
            image, label, row = next(samples)
            return image, int(label), int(row)

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField(), "index": IntField()}
    page_size = _page_size(first_image.nbytes)
    with (
        mock.patch("ffcv.writer.shared_memory", SimpleNamespace(SharedMemory=_LocalBuffer)),
        mock.patch("ffcv.memory_allocator.Value", _LocalValue),
    ):
        InProcessWriter(str(path), fields, page_size=page_size, num_workers=1).from_indexed_dataset(SequentialDataset())


def _page_size(image_bytes: int) -> int:
    """Return the page size of a beton whose images have `image_bytes` bytes each."""
    return _SMALL_PAGE_SIZE if image_bytes <= _SMALL_PAGE_SIZE else _LARGE_PAGE_SIZE


class _LocalBuffer:
    """Replaces `multiprocessing.shared_memory.SharedMemory`, which requires a /dev/shm that can be written."""

    def __init__(self, create: bool, size: int) -> None:
        self.buf = bytearray(size)


class _LocalValue:
    """Replaces `multiprocessing.Value`, whose lock requires a /dev/shm that can be written."""

    def __init__(self, *_: Any) -> None:
        self.value = 0

    get_lock = nullcontext


def validate(path: Path) -> BetonInfo:
    """Check the structure of a beton, without importing ffcv, and return its contents except the pixels.

    Raises:
        UserError: if the file is missing or truncated, has another format, or contains pointers outside the file.
    """

    def invalid(reason: str) -> UserError:
        return UserError(
            f"{path} is not a valid beton of this project ({reason}): run rr convert again for this dataset"
        )

    if not path.is_file():
        raise UserError(f"{path} is missing: run rr convert for this dataset")
    file_size = path.stat().st_size
    samples_start = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize
    if file_size < samples_start:
        raise invalid("too short to contain a header")
    header = np.fromfile(path, _HEADER, 1)[0]
    is_known_page_size = header["page"] in (_SMALL_PAGE_SIZE, _LARGE_PAGE_SIZE)
    if header["version"] != 2 or header["fields"] != len(_FIELDS) or not is_known_page_size:
        raise invalid("not an FFCV file of version 2 with the expected fields")
    fields = np.fromfile(path, _FIELD, len(_FIELDS), offset=_HEADER.itemsize)
    names = tuple(bytes(name).rstrip(b"\0").decode("ascii", "replace") for name in fields["name"])
    if names != _FIELDS or tuple(fields["type"]) != _FIELD_TYPES:
        raise invalid(f"its fields ({', '.join(names)}) or their types are not those of rr ({', '.join(_FIELDS)})")
    count, table_start = int(header["samples"]), int(header["allocation"])
    if (
        count < 1
        or table_start + count * _ALLOCATION.itemsize != file_size
        or samples_start + count * _SAMPLE.itemsize > table_start
    ):
        raise invalid(f"its size does not match its number of samples, {count:,}")
    samples = np.fromfile(path, _SAMPLE, count, offset=samples_start)
    allocation = np.fromfile(path, _ALLOCATION, count, offset=table_start)
    image, size = samples["image"], int(samples["image"]["width"][0])
    image_bytes = size * size * 3
    if size == 0:
        raise invalid("its images have no pixels")
    if header["page"] != _page_size(image_bytes):
        raise invalid(f"its pages of {header['page']} bytes do not suit images of {size} × {size} pixels")
    if np.any(image["width"] != size) or np.any(image["height"] != size) or np.any(image["mode"] != _RAW_MODE):
        raise invalid("its images differ in size or are compressed")
    # The bytes of each image must lie between the two tables. Nothing is added to the pointers: a sum could overflow.
    inside = (image["pointer"] <= table_start - image_bytes) & (image["pointer"] >= samples_start)
    if table_start < image_bytes or not inside.all():
        raise invalid("the pixels of an image lie outside the file")
    if not np.array_equal(np.sort(allocation["pointer"]), np.sort(image["pointer"])) or np.any(
        allocation["size"] != image_bytes
    ):
        raise invalid("its allocation table does not match its images")
    return BetonInfo(samples["label"].copy(), samples["index"].copy(), size, image["pointer"].astype(np.int64))


def read_images(path: Path, positions: np.ndarray) -> np.ndarray:
    """Return the images of a beton at the positions (M,), uint8 (M, image_size, image_size, 3), and read no others.

    Raises:
        UserError: if the file is missing or damaged (see `validate`).
    """
    info = validate(path)
    return _read_pixels(path, info.offsets[positions], info.image_size)


def _read_pixels(path: Path, offsets: np.ndarray, image_size: int) -> np.ndarray:
    """Read images without FFCV, whose decoder takes seconds to compile and is not needed for a few or resident images.

    Returns:
        The images that start at the bytes `offsets` (M,) of the file, uint8 (M, image_size, image_size, 3).
    """
    images = np.empty((len(offsets), image_size, image_size, 3), np.uint8)
    with open(path, "rb") as file:
        for image, offset in zip(images, offsets.tolist(), strict=True):
            file.seek(offset)
            if file.readinto(image.data) != image.nbytes:
                raise UserError(f"{path} changed while it was read: run rr convert again for this dataset")
    return images


class Beton:
    """A beton, which holds one split of a dataset, open for reading.

    If the pixels take up at most `max_resident_bytes`, they are read into an array in memory. Otherwise FFCV streams
    them from the file. The batches are the same in both cases.

    Args:
        path: file to read.
        threads: number of threads with which FFCV reads and decodes images.
        max_resident_bytes: maximum size in bytes of the pixels that are held in memory.

    Attributes:
        labels: label of each image, int64 (N,); -1 if unlabeled.
        index: row of each image in the raw file, int64 (N,).
        image_size: height and width of the images in pixels.
        images: all images, uint8 (N, image_size, image_size, 3), or None if they are streamed.

    Raises:
        UserError: if the file is missing or damaged (see `validate`).
    """

    def __init__(self, path: Path, *, threads: int, max_resident_bytes: int = MAX_RESIDENT_BYTES) -> None:
        self.path, self.threads = path, threads
        info = validate(path)
        self.labels, self.index, self.image_size = info.labels, info.index, info.image_size
        self._loaders: dict[int, Any] = {}
        self.images: np.ndarray | None = None
        count = len(self.labels)
        if count * self.image_size**2 * 3 <= max_resident_bytes:
            self.images = _read_pixels(path, info.offsets, info.image_size)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the images at the positions in `order`, batch by batch; the last batch may be smaller.

        Args:
            order: positions of the images in the file, in the order in which to yield them.
            batch_size: number of images per batch (M).

        Yields:
            The images, uint8 (M, image_size, image_size, 3), and their positions, int64 (M,). The array of images is
            only valid until the next batch is requested.
        """
        order = np.asarray(order, dtype=np.int64)
        if self.images is not None:
            for start in range(0, len(order), batch_size):
                positions = order[start : start + batch_size]
                yield self.images[positions], positions
        else:
            yield from self._stream_batches(order, batch_size)

    def _stream_batches(self, order: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Implement `batches` for a split that FFCV streams from the file."""
        if len(order) == 0:
            return
        with _preserve_torch_threads():
            if batch_size not in self._loaders:
                self._loaders[batch_size] = self._make_ffcv_loader(batch_size)
            loader = self._loaders[batch_size]
            # FFCV calls `sample_order` once, at the start of an epoch, and computes the number of batches from the
            # length of `first_traversal_order`.
            loader.traversal_order = SimpleNamespace(sample_order=lambda epoch: order.astype(np.uint64))
            loader.first_traversal_order = order
            epoch = iter(loader)
        try:
            start = 0
            for (images,) in epoch:
                yield images, order[start : start + len(images)]
                start += len(images)
        finally:
            # Without this, the thread of this epoch would wait forever for room in its queue if the caller stops early.
            epoch.close()

    def _make_ffcv_loader(self, batch_size: int) -> Any:
        _import_ffcv_quickly()
        import numba
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        return Loader(
            str(self.path),
            batch_size=batch_size,
            # numba raises an error if the number of threads exceeds this limit.
            num_workers=min(self.threads, numba.config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={"image": [SimpleRGBImageDecoder()], "label": None, "index": None},
        )
