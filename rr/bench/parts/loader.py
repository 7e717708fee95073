"""Part `loader`: pictures a second from storage to a uint8 batch in random order, nothing else done to them."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision.transforms import PILToTensor

from rr.bench import reference
from rr.bench.dataset import prepare
from rr.bench.measure import Contestant, Part, compare
from rr.bench.settings import Settings, workers
from rr.data.beton import Beton

_BATCH = 64
_READING = 1024  # the batches in which a split that becomes resident is decoded


def run(settings: Settings) -> Part:
    """FFCV's streaming and the resident array that small data sets use, against PIL pictures from worker processes."""
    part = Part()
    with tempfile.TemporaryDirectory() as folder:
        sample = prepare(settings, 256 if settings.small else 10_000, Path(folder))
        images, labels = np.load(sample.images), np.load(sample.labels)
        for threads in settings.threads_or(2):
            data = reference.Pictures(images, labels, PILToTensor())
            for name, batch, resident_bytes in (
                ("FFCV streamed", _BATCH, 0),
                ("FFCV streamed", _READING, 0),
                ("resident array", _BATCH, 1 << 40),
            ):
                batches = reference.loader(data, batch, workers())
                pil = Contestant("PIL in a DataLoader", lambda batches=batches: sum(1 for _ in batches), sample.count)  # type: ignore[misc]
                ours = Contestant(f"rr, {name}", _read(sample.beton, threads, batch, resident_bytes), sample.count)
                case = f"{name}, {sample.name}, batch {batch:,}"
                part.rows.append(compare(case, "pictures", threads, [ours, pil], settings.few(5)))
    part.notes = [
        f"whole epochs; the reference has {workers()} worker processes, kept from epoch to epoch, and its pictures in "
        "memory, as torchvision keeps CIFAR; FFCV reads its file from the system's cache",
        "rr trains from the resident array up to 1 GiB of pixels, and streams what is larger",
    ]
    return part


def _read(beton: Path, threads: int, batch: int, resident_bytes: int) -> Callable[[], int]:
    data = Beton(beton, threads=threads, resident_bytes=resident_bytes)
    rng = np.random.default_rng(0)
    return lambda: sum(len(images) for images, _ in data.batches(rng.permutation(len(data)), batch))
