"""FFCV's file format behind one door: the only module that imports ffcv.

Three facts of FFCV 1.0.2 shape it. Importing it sets torch to one thread, and building or iterating a loader sets it
to the loader's number of workers. A writer with several processes gives a different file each time, and waits for
ever when one of them dies. It maps files into memory, so a damaged file can end the process: `check` looks first.
"""

import importlib
import multiprocessing
import queue
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from rr.errors import UserError

_FIELDS = ("image", "label", "index")
RESIDENT_BYTES = 1 << 30  # of pixels; a split that has more is streamed
_PAGE = 1 << 21
# Layout of version 2 (`ffcv/types.py`), repeated here so that a foreign file is refused without importing ffcv.
_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("allocation", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
_ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8")], align=True)
_TYPES = (2, 1, 1)
_RAW_MODE = 1


@contextmanager
def _threads_kept() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _import_ffcv() -> None:
    """Import ffcv without the seconds of compilation that its two-entry table of image modes costs.

    The table is a numba dictionary, but only Python reads it.
    """
    with _threads_kept(), mock.patch("numba.typed.Dict", dict):
        importlib.import_module("ffcv")


def write(path: Path, images: Iterable[np.ndarray], labels: np.ndarray, index: np.ndarray) -> None:
    """Write uint8 (side, side, 3) images with their label and index (int64, one each) to a beton.

    Byte-identical for equal input: the samples are written in order by this very process, which also lets an error
    of the disk or of `images` reach the caller.
    """
    _import_ffcv()
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, worker_job_indexed_dataset

    class InProcessWriter(DatasetWriter):
        metadata_sm: Any

        def _write_common(self, num_samples, queue_content, work_fn, extra_worker_args):  # type: ignore[no-untyped-def]
            self.num_samples = num_samples
            self.prepare()
            # The shared memory is for other processes; here a plain buffer is simpler to give back after an error.
            size = self.metadata_sm.size
            self.metadata_sm.close()
            self.metadata_sm.unlink()
            self.metadata_sm = SimpleNamespace(buf=bytearray(size))
            todo: queue.Queue[Any] = queue.Queue()
            for chunk in [*queue_content, None]:
                todo.put(chunk)
            allocations: queue.Queue[Any] = queue.Queue()
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            done = multiprocessing.Value("Q", 0)
            worker_job_indexed_dataset(
                todo,
                self.metadata_sm,
                self.metadata_type,
                self.fields,
                allocator,
                done,
                allocations,
                *extra_worker_args,
            )
            self.finalize(allocations.get())

    stream = zip(images, labels, index, strict=True)

    class InOrder:
        """What an indexable data set must be for the writer, over a stream: it is asked for 0, 1, 2, …"""

        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, position: int) -> tuple[np.ndarray, int, int]:
            image, label, number = next(stream)
            return image, int(label), int(number)

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField(), "index": IntField()}
    InProcessWriter(str(path), fields, page_size=_PAGE, num_workers=1).from_indexed_dataset(InOrder())


def check(path: Path) -> SimpleNamespace:
    """Look at a beton's structure without ffcv; return `labels`, `index` (int64 (n,)) and `side` (pixels).

    Raises UserError for a file that is missing, foreign, truncated, or whose tables point outside it.
    """

    def refuse(why: str) -> UserError:
        return UserError(f"{path} is not a beton of this project ({why}): delete it and run rr convert again")

    if not path.is_file():
        raise UserError(f"{path} is missing: run rr convert first")
    size = path.stat().st_size
    samples_start = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize
    if size < samples_start:
        raise refuse("too short for a header")
    header = np.fromfile(path, _HEADER, 1)[0]
    if header["version"] != 2 or header["fields"] != len(_FIELDS) or header["page"] != _PAGE:
        raise refuse("another format or version")
    fields = np.fromfile(path, _FIELD, len(_FIELDS), offset=_HEADER.itemsize)
    names = tuple(bytes(name).rstrip(b"\0").decode("ascii", "replace") for name in fields["name"])
    if names != _FIELDS or tuple(fields["type"]) != _TYPES:
        raise refuse(f"fields {', '.join(names)}")
    count, table = int(header["samples"]), int(header["allocation"])
    if count < 1 or table + count * _ALLOCATION.itemsize != size or samples_start + count * _SAMPLE.itemsize > table:
        raise refuse("truncated")
    samples = np.fromfile(path, _SAMPLE, count, offset=samples_start)
    allocation = np.fromfile(path, _ALLOCATION, count, offset=table)
    image, side = samples["image"], int(samples["image"]["width"][0])
    if side == 0:
        raise refuse("pictures without a pixel")
    if np.any(image["width"] != side) or np.any(image["height"] != side) or np.any(image["mode"] != _RAW_MODE):
        raise refuse("pictures of different sides, or compressed")
    # Every picture's bytes lie between the tables; compared without a sum that could overflow.
    inside = (image["pointer"] <= table - side * side * 3) & (image["pointer"] >= samples_start)
    if table < side * side * 3 or not inside.all():
        raise refuse("a picture lies outside the file")
    if not np.array_equal(np.sort(allocation["pointer"]), np.sort(image["pointer"])) or np.any(
        allocation["size"] != side * side * 3
    ):
        raise refuse("its allocation table does not match its pictures")
    return SimpleNamespace(labels=samples["label"].copy(), index=samples["index"].copy(), side=side)


class Beton:
    """One split, open for reading: `labels` and `index` (int64 (n,)), `side` (pixels), and `batches`.

    A split of up to `resident_bytes` is decoded by FFCV once and kept as one uint8 array; a larger one is streamed by
    FFCV in the order asked for. Both yield the same batches.
    """

    def __init__(self, path: Path, *, threads: int, resident_bytes: int = RESIDENT_BYTES) -> None:
        """Raises UserError as `check` does."""
        facts = check(path)
        self.path, self.threads = path, threads
        self.labels: np.ndarray = facts.labels
        self.index: np.ndarray = facts.index
        self.side: int = facts.side
        self._loaders: dict[int, Any] = {}
        self.images: np.ndarray | None = None
        count = len(self.labels)
        if count * self.side**2 * 3 <= resident_bytes:
            images = np.empty((count, self.side, self.side, 3), np.uint8)
            for start, batch in self._stream(np.arange(count), 1024):
                images[start : start + len(batch)] = batch
            self.images = images

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (images uint8 (m, side, side, 3), positions int64 (m,)) in `order`; the last batch may be smaller.

        A yielded array is valid until the next is asked for.
        """
        order = np.asarray(order, dtype=np.int64)
        if self.images is not None:
            for start in range(0, len(order), batch_size):
                positions = order[start : start + batch_size]
                yield self.images[positions], positions
        else:
            for start, images in self._stream(order, batch_size):
                yield images, order[start : start + batch_size]

    def _stream(self, order: np.ndarray, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
        if len(order) == 0:
            return
        with _threads_kept():
            loader = self._loaders.get(batch_size) or self._loaders.setdefault(batch_size, self._loader(batch_size))
            # FFCV asks its order object once at the start of an epoch, and its length to know the number of batches.
            loader.traversal_order = SimpleNamespace(sample_order=lambda epoch: order.astype(np.uint64))
            loader.first_traversal_order = order
            epoch = iter(loader)
        try:
            start = 0
            for (images,) in epoch:
                yield start, images
                start += len(images)
        finally:
            # An epoch that is left early would keep its thread waiting for a place in the queue.
            epoch.close()

    def _loader(self, batch_size: int) -> Any:
        _import_ffcv()
        import numba
        from ffcv.fields.rgb_image import SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        return Loader(
            str(self.path),
            batch_size=batch_size,
            # numba has no more threads than there are cores.
            num_workers=min(self.threads, numba.config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            drop_last=False,
            pipelines={"image": [SimpleRGBImageDecoder()], "label": None, "index": None},
        )
