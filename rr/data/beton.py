"""Read and write betons, FFCV's dataset files.

A beton holds square images of one size as raw pixels, or photographs of many sizes (see `rr.data.photograph_beton`) as
raw pixels or JPEG, whichever is smaller.

This module works around several quirks of FFCV 1.0.2. Importing ffcv limits torch to one thread, and creating or
iterating over a loader sets torch's number of threads to the loader's number of workers. Writing with several processes
produces a different file each time, and hangs if a process dies. The writer needs shared memory and semaphores, which
are not available if /dev/shm is not writable. Instead, this module writes in a single process with plain Python
objects. FFCV maps files into memory, so a damaged file can crash the process. Therefore, `validate` checks a file
before FFCV opens it.
"""

import functools
import importlib
import io
import math
import queue
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from rr.errors import UserError

_FIELDS = ("image", "label", "index")
MAX_RESIDENT_BYTES = 1 << 30  # splits whose pixels take up more bytes are streamed from the file
# FFCV never splits an image across two pages. A small page (FFCV's minimum size) can hold an image of 836 × 836
# pixels. A large page can hold five images of 1024 × 1024 pixels, so only a small part of it stays empty.
_SMALL_PAGE_SIZE, _LARGE_PAGE_SIZE = 1 << 21, 1 << 24
# Layout of version 2 of the format (`ffcv/types.py`). It is duplicated here so that a file can be validated without
# importing ffcv.
_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("allocation", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8")], align=True)
_FIELD_TYPES = (2, 1, 1)
_JPEG_MODE, _RAW_MODE = 0, 1


class StoredImage(NamedTuple):
    """An image as it is stored in a beton; `mode` is FFCV's image mode: 0 for JPEG, 1 for raw pixels."""

    mode: int
    height: int
    width: int
    data: bytes | memoryview


@dataclass(frozen=True)
class BetonInfo:
    """The contents of a beton except the pixels.

    Attributes:
        labels: label of each image, int64 (N,).
        index: row of each image in the raw file, int64 (N,).
        image_size: height and width of the images in pixels; 0 for photographs.
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


def import_ffcv() -> None:
    """Import ffcv quickly, with a Python dict in place of its numba dictionary of image modes.

    The numba dictionary takes several seconds to compile, but it has only two entries, and only Python code reads it.
    """
    with _preserve_torch_threads(), mock.patch("numba.typed.Dict", dict):
        importlib.import_module("ffcv")


def write(path: Path, images: Iterable[np.ndarray], labels: np.ndarray, index: np.ndarray) -> None:
    """Write square images with their labels and indices to a beton as raw pixels.

    Args:
        path: file to write.
        images: N square RGB images of the same size, uint8 (S, S, 3).
        labels: label of each image, int64 (N,).
        index: row of each image in the raw file, int64 (N,).
    """
    images = iter(images)
    first_image = next(images)
    write_stored(path, map(wrap_raw_pixels, chain([first_image], images)), labels, index, first_image.nbytes)


def wrap_raw_pixels(pixels: np.ndarray) -> StoredImage:
    """Return an image, uint8 (H, W, 3), as raw pixels."""
    height, width, _ = pixels.shape
    return StoredImage(_RAW_MODE, height, width, np.ascontiguousarray(pixels).reshape(-1).data)


def encode_photograph(pixels: np.ndarray, quality: int | Literal["raw"]) -> StoredImage:
    """Encode an image, uint8 (H, W, 3), as JPEG with the given quality, or keep the raw pixels if JPEG is no smaller.

    With the quality "raw", the pixels are always kept.
    """
    image = wrap_raw_pixels(pixels)
    if quality == "raw":
        return image
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=quality)
    return image if jpeg.tell() >= len(image.data) else image._replace(mode=_JPEG_MODE, data=jpeg.getvalue())


def max_photograph_bytes(stored_size: int) -> int:
    """Return the page size of a beton of photographs, which is also the maximum size of a photograph.

    A page can hold the raw pixels of a photograph that is four times as long as it is wide.
    """
    return _beton_page_size(4 * 3 * stored_size**2)


def write_stored(
    path: Path, images: Iterable[StoredImage], labels: np.ndarray, index: np.ndarray, max_image_bytes: int
) -> None:
    """Write images with their labels and indices to a beton.

    The samples are written in order by this process. Therefore, the same inputs produce byte-identical files, and
    errors from the disk or from the `images` iterator reach the caller.

    Args:
        path: file to write.
        images: N square images of one size as raw pixels, or N photographs.
        labels: label of each image, int64 (N,).
        index: row of each image in the raw file, int64 (N,); consecutive numbers if the images are photographs.
        max_image_bytes: maximum size of an image in bytes; `max_photograph_bytes` if the images are photographs.
    """
    import_ffcv()
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, worker_job_indexed_dataset

    class InProcessWriter(DatasetWriter):
        """FFCV's writer without worker processes and shared memory."""

        metadata_sm: Any  # set by `prepare`

        def _write_common(self, num_samples, queue_content, work_fn, extra_worker_args):  # type: ignore[no-untyped-def]
            """Replace FFCV's method, which starts worker processes: run the loop of one worker in this process."""
            self.num_samples = num_samples
            self.prepare()
            chunks: queue.Queue[Any] = queue.Queue()
            for chunk in [*queue_content, None]:  # None ends the worker's loop
                chunks.put(chunk)
            allocations: queue.Queue[Any] = queue.Queue()
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            worker_job_indexed_dataset(
                chunks, self.metadata_sm, self.metadata_type, self.fields, allocator, _LocalValue(), allocations,
                *extra_worker_args,
            )  # fmt: skip
            self.finalize(allocations.get())

    samples = zip(images, labels, index, strict=True)

    class SequentialDataset:
        """Makes the `samples` iterator indexable, as FFCV requires. Positions must be requested in order."""

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, position: int) -> tuple[StoredImage, int, int]:
            image, label, row = next(samples)
            return image, int(label), int(row)

    def encode(sample: np.ndarray, image: StoredImage, allocate: Any) -> None:
        """Replace FFCV's field method: store the image as it is, because the caller has already encoded it."""
        sample["mode"], sample["height"], sample["width"] = image.mode, image.height, image.width
        sample["data_ptr"], memory = allocate(len(image.data))
        memory[:] = np.frombuffer(image.data, np.uint8)

    image_field = RGBImageField()
    image_field.encode = encode
    fields = {"image": image_field, "label": IntField(), "index": IntField()}
    with (
        mock.patch("ffcv.writer.shared_memory", SimpleNamespace(SharedMemory=_LocalBuffer)),
        mock.patch("ffcv.memory_allocator.Value", _LocalValue),
    ):
        page_size = _beton_page_size(max_image_bytes)
        InProcessWriter(str(path), fields, page_size=page_size, num_workers=1).from_indexed_dataset(SequentialDataset())


def _beton_page_size(image_bytes: int) -> int:
    """Return the page size of a beton whose images take up `image_bytes` bytes each."""
    return _SMALL_PAGE_SIZE if image_bytes <= _SMALL_PAGE_SIZE else _LARGE_PAGE_SIZE


class _LocalBuffer:
    """Replaces `multiprocessing.shared_memory.SharedMemory`, which requires a writable /dev/shm."""

    def __init__(self, create: bool, size: int) -> None:
        self.buf = bytearray(size)


class _LocalValue:
    """Replaces `multiprocessing.Value`, whose lock requires a writable /dev/shm."""

    def __init__(self, *_: Any) -> None:
        self.value = 0

    get_lock = nullcontext


def validate(path: Path, *, photographs: bool = False) -> BetonInfo:
    """Check the structure of a beton, without importing ffcv, and return its contents except the pixels.

    Args:
        path: the file.
        photographs: whether the file must hold photographs instead of square images of one size.

    Raises:
        UserError: if the file is missing or truncated, is not in the expected format, or contains pointers outside the
            file.
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
        raise invalid(
            f"its fields ({', '.join(names)}) or their types are not the ones that rr uses ({', '.join(_FIELDS)})"
        )
    count, table_start = int(header["samples"]), int(header["allocation"])
    if (
        count < 1
        or table_start + count * _ALLOCATION.itemsize != file_size
        or samples_start + count * _SAMPLE.itemsize > table_start
    ):
        raise invalid(f"its size does not match its number of samples, {count:,}")
    samples = np.fromfile(path, _SAMPLE, count, offset=samples_start)
    allocation = np.fromfile(path, _ALLOCATION, count, offset=table_start)
    image, page_size = samples["image"], int(header["page"])
    if photographs:
        size, image_bytes = 0, allocation["size"]
        problem = _find_photograph_problem(samples, image_bytes, page_size)
    else:
        size = int(image["width"][0])
        image_bytes = np.full(count, size * size * 3, np.uint64)
        problem = _find_square_problem(image, size, page_size)
    if problem:
        raise invalid(problem)
    # Each image must lie between the header and the allocation table: samples_start ≤ pointer ≤ table_start − size. The
    # numbers are unsigned, so a sum could overflow and a difference could wrap around. For an image larger than
    # table_start, 0 is subtracted, and `is_small` rejects it.
    is_small = image_bytes <= table_start
    end = table_start - np.where(is_small, image_bytes, 0)
    if not np.all(is_small & (image["pointer"] <= end) & (image["pointer"] >= samples_start)):
        raise invalid("the pixels of an image lie outside the file")
    if not np.array_equal(np.sort(allocation["pointer"]), np.sort(image["pointer"])) or np.any(
        allocation["size"] != image_bytes
    ):
        raise invalid("its allocation table does not match its images")
    return BetonInfo(samples["label"].copy(), samples["index"].copy(), size, image["pointer"].astype(np.int64))


def _find_photograph_problem(samples: np.ndarray, image_bytes: np.ndarray, page_size: int) -> str | None:
    """Return what is wrong with the entries of photographs, whose sizes are `image_bytes` (N,), or None."""
    image = samples["image"]
    is_raw = image["mode"] == _RAW_MODE
    raw_bytes = image["height"].astype(np.uint64) * image["width"] * 3
    if np.any(image["mode"] > _RAW_MODE) or np.any(raw_bytes == 0):
        return "an image has no pixels or an unknown mode"
    # The decoder allocates memory for the stated height and width, so they are checked. `max_photograph_bytes` chose a
    # page that can hold 4 * 3 * stored_size**2 bytes, and no shorter side is longer than stored_size.
    if np.any(np.minimum(image["height"], image["width"]) > math.isqrt(page_size // 12)):
        return "an image is larger than its page allows"
    if np.any(image_bytes[is_raw] != raw_bytes[is_raw]) or np.any(image_bytes == 0):
        return "the size of an image does not match its number of bytes"
    # FFCV uses binary search to find an image's size in bytes.
    is_ordered = np.all(image["pointer"][:-1] < image["pointer"][1:])
    if not is_ordered or np.any(samples["index"] != samples["index"][0] + np.arange(len(samples))):
        return "its images are not in order"
    return None


def _find_square_problem(image: np.ndarray, size: int, page_size: int) -> str | None:
    """Return what is wrong with the entries of square images, of which the first is `size` pixels wide, or None."""
    if size == 0:
        return "its images have no pixels"
    if page_size != _beton_page_size(size * size * 3):
        return f"its page size of {page_size} bytes is wrong for images of {size} × {size} pixels"
    if np.any(image["width"] != size) or np.any(image["height"] != size) or np.any(image["mode"] != _RAW_MODE):
        return "its images differ in size or are compressed"
    return None


def read_images(path: Path, positions: np.ndarray) -> np.ndarray:
    """Read only the images at the positions (M,) of a beton; return uint8 (M, image_size, image_size, 3).

    Raises:
        UserError: if the file is missing or damaged (see `validate`).
    """
    info = validate(path)
    return _read_pixels(path, info.offsets[positions], info.image_size)


def _read_pixels(path: Path, offsets: np.ndarray, image_size: int) -> np.ndarray:
    """Read images without FFCV's decoder, which takes several seconds to compile.

    That decoder is not needed for a few images, or for images that are held in memory.

    Returns:
        The images that start at the byte offsets `offsets` (M,) in the file, uint8 (M, image_size, image_size, 3).
    """
    images = np.empty((len(offsets), image_size, image_size, 3), np.uint8)
    with open(path, "rb") as file:
        for image, offset in zip(images, offsets.tolist(), strict=True):
            file.seek(offset)
            if file.readinto(image.data) != image.nbytes:
                raise UserError(f"{path} changed while it was read: run rr convert again for this dataset")
    return images


class Beton:
    """An open beton, which contains one split of a dataset.

    If the pixels take up at most `max_resident_bytes`, they are read into an array in memory. Otherwise, FFCV streams
    them from the file. The batches are the same in both cases.

    Args:
        path: file to read.
        threads: number of threads that FFCV uses to read and decode images.
        max_resident_bytes: maximum size of the pixels held in memory, in bytes.

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
        self._loader: Any = None
        self.images: np.ndarray | None = None
        count = len(self.labels)
        if count * self.image_size**2 * 3 <= max_resident_bytes:
            self.images = _read_pixels(path, info.offsets, info.image_size)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the images at the positions in `order`, batch by batch; the last batch may be smaller.

        Args:
            order: positions of the images in the file, in the order in which to yield them.
            batch_size: number of images per batch (M).

        Yields:
            The images, uint8 (M, image_size, image_size, 3). The array is only valid until the next batch is requested.
        """
        order = np.asarray(order, dtype=np.int64)
        if self.images is not None:
            for start in range(0, len(order), batch_size):
                yield self.images[order[start : start + batch_size]]
            return
        if self._loader is None:
            import_ffcv()
            from ffcv.fields.rgb_image import SimpleRGBImageDecoder

            self._loader = make_loader(self.path, SimpleRGBImageDecoder(), self.threads)
        yield from iter_epoch(self._loader, order, batch_size)


def make_loader(path: Path, decoder: Any, threads: int, batches_ahead: int = 3) -> Any:
    """Return an FFCV loader that decodes the images of a beton using `decoder`, an FFCV `Operation`.

    In a loader's first epoch, FFCV compiles the decoder, which takes several seconds.
    """
    with _preserve_torch_threads():
        import_ffcv()
        import numba
        from ffcv.loader import Loader, OrderOption

        return Loader(
            str(path),
            batch_size=1,  # `iter_epoch` sets the batch size of each epoch
            # numba raises an error if the number of threads exceeds this limit.
            num_workers=min(threads, numba.config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            batches_ahead=batches_ahead,
            pipelines={"image": [decoder], "label": None, "index": None},
        )


def iter_epoch(loader: Any, order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the batches that an FFCV loader makes from the samples in `order`.

    Each array is only valid until the next batch is requested.
    """
    if len(order) == 0:
        return
    with _preserve_torch_threads():
        loader.batch_size = batch_size
        epoch = _epoch_iterator_class()(loader, order.astype(np.uint64))
    try:
        for (images,) in epoch:
            yield images
        if epoch.error is not None:
            raise epoch.error
    finally:
        # If the caller stops early, this epoch's thread would otherwise wait forever for room in its queue.
        epoch.close()


@functools.cache
def _epoch_iterator_class() -> Any:
    """Return a subclass of FFCV's epoch iterator (a thread) that stores the error that ends the thread.

    FFCV's own class would wait forever for the next batch, for example if the disk is full when numba saves a kernel.
    """
    from ffcv.loader.epoch_iterator import EpochIterator

    class StoppingEpochIterator(EpochIterator):
        error: BaseException | None = None

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:
                self.error = error
                while not self.terminate_event.is_set():
                    with suppress(queue.Full):
                        self.output_queue.put(None, timeout=0.5)  # ends the iteration
                        break

    return StoppingEpochIterator
