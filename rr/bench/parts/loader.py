"""The `loader` part: load images into uint8 batches in random order, without augmentation."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision.transforms import PILToTensor

from rr.bench import reference
from rr.bench.dataset import prepare_data
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import Settings, num_loader_workers
from rr.data.beton import Beton

_BATCH_SIZE, _LARGE_BATCH_SIZE = 64, 1024


def run(settings: Settings) -> PartResult:
    """Compare rr's two loaders (FFCV, in-memory array) with a DataLoader whose worker processes use PIL images."""
    result = PartResult()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(settings, 256 if settings.smoke_test else 10_000, Path(folder))
        dataset = reference.ImageDataset(np.load(data.images), np.load(data.labels), PILToTensor())
        for threads in settings.choose_thread_counts(2):
            for name, batch_size, max_resident_bytes in (
                ("FFCV streamed", _BATCH_SIZE, 0),
                ("FFCV streamed", _LARGE_BATCH_SIZE, 0),
                ("array in memory", _BATCH_SIZE, 1 << 40),
            ):
                batches = reference.make_loader(dataset, batch_size, num_loader_workers())
                read_with_rr = _make_epoch_reader(data.beton, threads, batch_size, max_resident_bytes)
                candidates = [
                    Candidate(f"rr, {name}", read_with_rr, data.num_images),
                    Candidate("PIL in a DataLoader", lambda batches=batches: sum(1 for _ in batches), data.num_images),  # type: ignore[misc]
                ]
                case = f"{name}, {data.name}, batch {batch_size:,}"
                repeats = min(settings.steps, 5)
                result.cases.append(compare_candidates(case, "images", threads, candidates, repeats))
    result.notes = [
        f"A repeat is an epoch. The reference has one worker process per core ({num_loader_workers()}). Its processes "
        "persist between epochs. The reference keeps its images in memory, as torchvision does for CIFAR.",
        "FFCV reads its file from the page cache.",
        "During training, rr keeps datasets of up to 1 GiB of pixels in memory and streams larger ones.",
    ]
    return result


def _make_epoch_reader(path: Path, threads: int, batch_size: int, max_resident_bytes: int) -> Callable[[], int]:
    """Return a function that reads all images once in random order."""
    beton = Beton(path, threads=threads, max_resident_bytes=max_resident_bytes)
    rng = np.random.default_rng(0)
    return lambda: sum(len(images) for images in beton.batches(rng.permutation(len(beton)), batch_size))
