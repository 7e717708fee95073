"""The `scaling` part: time and peak memory for increasing numbers of images, views, classes, runs and vectors."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from rr import backbones, methods
from rr.bench.measure import PartResult, summarize, time_once
from rr.bench.memory import measure_memory_in_new_process, measure_peak_mib
from rr.bench.settings import IMAGES, Settings, paper_config
from rr.compute.optimizers import make_optimizer
from rr.compute.torch_threads import configure_torch
from rr.data import beton
from rr.evaluate import classification_metrics, linear
from rr.evaluate.similarity import find_nearest
from rr.params import LinearConfig
from rr.params.loading import load_params
from rr.params.methods import TrainableConfig
from rr.workflow.plan import format_plan, make_plan

_NUM_FEATURES, _NUM_TEST_IMAGES, _NUM_QUERIES, _REPEATS = 64, 2_000, 10, 3

# A function that prepares work of one size and returns the function to time.
_MakeWork = Callable[[int, Path], Callable[[], object]]


def run(settings: Settings) -> PartResult:
    """Time each kind of work at several sizes, and measure peak memory in an additional run in a new process."""
    result = PartResult(notes=["Peak memory includes the inputs, but not the libraries."])
    for threads in settings.choose_thread_counts(2):
        configure_torch(threads)
        for series, unit, sizes, make_work in _list_series():
            peaks = []
            for size in sizes[:1] if settings.smoke_test else sizes:
                with tempfile.TemporaryDirectory() as folder:
                    work = make_work(size, Path(folder))
                    timings = [time_once(work) for _ in range(1 + min(settings.steps, _REPEATS))][1:]
                peak = measure_memory_in_new_process("scaling", series, size, threads)
                case = summarize(f"{series}, {size:,} {unit}", "runs", threads, [("rr", 1)], [timings])
                case.facts.update(series=series, size=size, size_unit=unit, peak_memory_mib=peak)
                result.cases.append(case)
                peaks.append(f"{size:,}: {'unknown' if peak is None else f'{peak:,.0f} MiB'}")
            result.notes.append(f"Peak memory of {series} by number of {unit}: {', '.join(peaks)}.")
    return result


def measure_memory(series: str, size: int, threads: int) -> float | None:
    """Return the memory in MiB that the work needs, or None if it cannot be measured."""
    configure_torch(threads)
    sizes, make_work = next((sizes, make_work) for name, _, sizes, make_work in _list_series() if name == series)
    with tempfile.TemporaryDirectory() as folder:
        make_work(sizes[0], Path(folder))()  # loads libraries and compiles code before the measurement
        return measure_peak_mib(lambda: make_work(size, Path(folder))())


def _list_series() -> Iterator[tuple[str, str, tuple[int, ...], _MakeWork]]:
    """Yield the name, size unit, ascending sizes and work of each series."""
    yield "writing a dataset", "images", (5_000, 50_000, 500_000), _make_write
    yield "reading a dataset", "images", (5_000, 50_000, 500_000), _make_read
    yield "training step", "views of an image", (2, 4, 8, 16, 32, 64), _make_training_step
    yield "linear evaluation", "classes", (10, 100, 1_000, 10_000), _make_linear_evaluation
    yield "parameters and plan", "runs", (10, 100, 1_000, 10_000), _make_plan
    for dimension in (64, 512):
        sizes = (1_000, 10_000, 100_000, 1_000_000)
        yield f"search, {dimension} features", "vectors", sizes, _make_search(dimension)


def _make_write(num_images: int, folder: Path) -> Callable[[], object]:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    images = np.broadcast_to(image, (num_images, 32, 32, 3))  # needs memory for only one image
    labels, index = np.arange(num_images) % 10, np.arange(num_images)
    return lambda: beton.write(folder / "train.beton", images, labels, index)


def _make_read(num_images: int, folder: Path) -> Callable[[], object]:
    """Return a function that opens the dataset and reads all its images once in random order."""
    _make_write(num_images, folder)()
    order = np.random.default_rng(0).permutation(num_images)

    def read() -> int:
        dataset = beton.Beton(folder / "train.beton", threads=torch.get_num_threads())
        return sum(len(images) for images in dataset.batches(order, 512))

    return read


def _make_training_step(num_views: int, folder: Path) -> Callable[[], object]:
    """Return a function that computes the relation loss with Conv-4 and updates the weights, without making views."""
    config = paper_config("relational", num_views, IMAGES)
    assert isinstance(config, TrainableConfig)
    method = methods.build(config, backbones.build("conv4"), 10).train()
    optimizer = make_optimizer(config.optimizer, [(method.parameters(), config.learning_rate)])
    views, labels = torch.randn(num_views * IMAGES, 3, 32, 32), torch.arange(IMAGES)

    def step() -> None:
        optimizer.zero_grad()
        method.loss(views, labels, ())[0].backward()
        optimizer.step()

    return step


def _make_linear_evaluation(num_classes: int, folder: Path) -> Callable[[], object]:
    """Return a function that trains on the features of 10,000 images for one epoch and evaluates on 2,000 images."""
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, _NUM_FEATURES, generator=generator) for n in (10_000, _NUM_TEST_IMAGES))
    train_labels, test_labels = (np.arange(len(features)) % num_classes for features in (train, test))
    config = LinearConfig(kind="linear", label_fraction=1.0, epochs=1, batch_size=128, learning_rate=1e-3)

    def evaluate() -> dict[str, float]:
        with contextlib.redirect_stderr(io.StringIO()):  # hides the progress
            probabilities, _ = linear.train_and_predict(
                train, train_labels, test, test_labels, config, num_classes=num_classes, seed=0
            )
        return classification_metrics.compute_classification_metrics(test_labels, probabilities)

    return evaluate


def _make_plan(num_runs: int, folder: Path) -> Callable[[], object]:
    """Return a function that reads a parameter file with a grid of `num_runs` pretraining runs and plans them."""
    source = {"kind": "shapes", "train": 100, "test": 100, "seed": 0}
    axes = {"data": ["shapes"], "dataset": ["shapes"], "backbone": ["conv4"], "method": ["relational"]}
    axes |= {"target": ["shapes"], "protocol": ["knn"]}
    params: dict[str, Any] = {
        "grid": {**axes, "seed": list(range(num_runs))},
        "threads": 2,
        "precision": "float32",
        "dynamics": {"every_n_epochs": 0, "images": 50},
        "datasets": {"shapes": {"source": source, "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}},
        "methods": {"relational": paper_config("relational", 4, IMAGES).model_dump(mode="json")},
        "protocols": {"knn": {"kind": "knn", "neighbors": 1, "temperature": 0.1}},
    }
    path = folder / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)

    def plan() -> str:
        with contextlib.chdir(folder):
            return format_plan(make_plan(load_params(path), lambda params, runs: {}))

    return plan


def _make_search(dimension: int) -> _MakeWork:
    def make(num_vectors: int, folder: Path) -> Callable[[], object]:
        rng = np.random.default_rng(0)
        gallery, queries = (rng.random((n, dimension), np.float32) for n in (num_vectors, _NUM_QUERIES))
        return lambda: find_nearest(queries, gallery, 10)

    return make
