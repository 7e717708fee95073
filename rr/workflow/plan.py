"""`rr plan`: count the runs and views of a grid, and estimate how long it takes on this machine."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rr import paths
from rr.data.index import read_class_names
from rr.data.shapes import CLASS_NAMES as SHAPES_CLASSES
from rr.data.sources import slimagenet, tiny_imagenet
from rr.errors import UserError
from rr.params import DatasetConfig, Params
from rr.runtime.table import format_table
from rr.workflow import grid
from rr.workflow.estimates import IoEstimate, estimate_io, estimate_makespan
from rr.workflow.records import load_record

MEASUREMENT_SECONDS = 3.0  # duration of the measurement, which starts after the first training step
# Numbers of training images and classes of the sources that always have the same size.
_TRAIN_SIZES = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "cifar100_20": (50_000, 20),
    "stl10": (5_000, 10),
    "stl10_unlabeled": (100_000, 10),  # the classes of the test images
    "tiny_imagenet": (tiny_imagenet.CLASSES * tiny_imagenet.TRAIN_PER_CLASS, tiny_imagenet.CLASSES),
    "slimagenet64": (slimagenet.CLASSES * slimagenet.TRAIN_PER_CLASS, slimagenet.CLASSES),
}
ThroughputFunction = Callable[[Params, paths.PretrainPaths], float]


def format_plan(params: Params, throughput: ThroughputFunction, gpus: int = 1) -> str:
    """Return a table of the grid's pretraining runs, followed by estimates for those that are not done yet.

    A run is done if its record has the current parameters. The hours include only the training loop. They do not
    include evaluations, the clustering of DeepCluster, or reading and writing files.

    Args:
        params: parameters with the grid.
        throughput: function that returns the views per second of a run.
        gpus: number of GPUs; each trains one run at a time.
    """
    groups: dict[tuple[str, str, str], list[paths.PretrainPaths]] = defaultdict(list)
    for run in grid.pretrainings(params):
        groups[run.dataset, run.backbone, run.method].append(run)
    rows: list[tuple[str, ...]] = []
    total_views = 0
    todo: list[paths.PretrainPaths] = []
    hours: dict[paths.PretrainPaths, float] = {}
    io: list[IoEstimate] = []
    unknown_sizes: set[str] = set()
    for (dataset, backbone, method), runs in groups.items():
        remaining = [run for run in runs if not _is_done(params, run)]
        todo += remaining
        config: Any = params.methods[method]
        size = _count_train_images_and_classes(dataset, params.datasets[dataset])
        if not remaining or not hasattr(config, "epochs"):
            work = ("0", "–", "0.0")
        elif size is None:
            unknown_sizes.add(dataset)
            work = ("?", "?", "?")
        else:
            num_images, num_classes = size
            views = num_images * config.views * config.epochs
            rate = throughput(params, remaining[0])
            total_views += len(remaining) * views
            hours |= dict.fromkeys(remaining, views / rate / 3600)
            io += [estimate_io(params, remaining[0], num_images, num_classes, views / rate)] * len(remaining)
            work = (f"{views:,}", f"{rate:,.0f}", f"{len(remaining) * views / rate / 3600:,.1f}")
        rows.append((dataset, backbone, method, f"{len(remaining)}", f"{len(runs) - len(remaining)}", *work))
    header = ("dataset", "backbone", "method", "runs", "done", "views per run", "views/s", "hours")
    lines = [
        format_table(header, rows, text_columns=3),
        f"{len(todo):,} pretraining runs, {total_views:,} views, {sum(hours.values()):,.1f} hours if run one after the "
        f"other; {len(list(grid.evaluations(params))):,} evaluations, which are not included in the hours",
        f"disk space: about {_beton_gigabytes(params):,.2f} GB for betons, and about as much again for data/raw",
    ]
    if hours:
        lines += [*_makespan_lines(hours, gpus), _io_line(io, gpus)]
    if unknown_sizes:
        names = ", ".join(sorted(unknown_sizes))
        lines.append(f"not included, because the size is unknown until rr convert has run: {names}")
    return "\n".join(lines)


def _makespan_lines(hours: dict[paths.PretrainPaths, float], gpus: int) -> list[str]:
    """Describe the longest run, which more GPUs do not shorten, and how long all runs take on several GPUs."""
    longest = max(hours, key=lambda run: hours[run])
    name = f"{longest.method} on {longest.dataset} with {longest.backbone}"
    lines = [f"longest run: {name}, {hours[longest]:,.1f} hours"]
    if gpus > 1:
        makespan = estimate_makespan(list(hours.values()), gpus)
        lines.append(
            f"on {gpus} GPUs: {makespan.longest_first:,.1f} hours if the longest runs start first; "
            f"{makespan.lower_bound:,.1f} to {makespan.upper_bound:,.1f} hours in any order"
        )
    return lines


def _io_line(io: Sequence[IoEstimate], gpus: int) -> str:
    read = sum(run.read_bytes for run in io) / 1e9
    written = sum(run.write_bytes for run in io) / 1e9
    # An unfinished run keeps its newest checkpoint and the one before it.
    stored = 2 * sum(sorted((run.checkpoint_bytes for run in io), reverse=True)[:gpus]) / 1e9
    return (
        f"pretraining reads {read:,.2f} GB of pixels and writes {written:,.2f} GB of checkpoints, of which at most "
        f"{stored:,.3f} GB exist at any time"
    )


def make_throughput_function(device: str) -> ThroughputFunction:
    """Return a function that measures the views per second of a run. Runs with equal training steps share a result."""
    measured: dict[tuple[Any, ...], float] = {}

    def throughput(params: Params, run: paths.PretrainPaths) -> float:
        dataset = params.datasets[run.dataset]
        key = (run.backbone, dataset.image_size, params.methods[run.method].model_dump_json(exclude={"epochs"}))
        if key not in measured:
            measured[key] = _measure_throughput(params, run, dataset, device)
        return measured[key]

    return throughput


def _measure_throughput(params: Params, run: paths.PretrainPaths, dataset: DatasetConfig, device: str) -> float:
    """Return the views per second of the training loop, measured on images of random pixels."""
    from rr.compute import device as devices
    from rr.data import beton
    from rr.workflow.throughput import StopTraining, train_until_stopped

    method: Any = params.methods[run.method]
    changes: dict[str, Any] = {"epochs": 10**6}
    if method.kind == "deepcluster":
        changes |= {"clusters": 10, "clusters_per": "dataset"}  # the clustering itself is not measured
    step_times: list[float] = []
    step_views: list[int] = []

    def on_step(views: int) -> None:
        if device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
        step_times.append(time.perf_counter())
        step_views.append(views)
        if step_times[-1] - step_times[0] >= MEASUREMENT_SECONDS:
            raise StopTraining

    with tempfile.TemporaryDirectory() as folder:
        count, size = 8 * method.batch_size, dataset.image_size
        noise = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
        path = Path(folder, "train.beton")
        beton.write(path, noise, np.arange(count) % 10, np.arange(count))
        devices.configure_backends(params.threads)
        train_until_stopped(
            method.model_copy(update=changes), dataset, 10, path, Path(folder), on_step, device=device,
            threads=params.threads, backbone=run.backbone, precision=params.precision,
        )  # fmt: skip
    return sum(step_views[1:]) / (step_times[-1] - step_times[0])


def _is_done(params: Params, run: paths.PretrainPaths) -> bool:
    if not paths.record_file(run.folder).is_file():
        return False
    try:
        return bool(load_record(run.folder)["params"] == grid.make_pretrain_run(params, run).params)
    except UserError:
        return False  # the record is damaged


def _count_train_images_and_classes(name: str, dataset: DatasetConfig) -> tuple[int, int] | None:
    """Return the numbers of training images and of classes, or None if they are unknown until `rr convert` has run."""
    files = paths.DatasetPaths(name)
    if paths.record_file(files.beton_dir).is_file():
        return int(load_record(files.beton_dir)["images"]["train"]), len(read_class_names(files.index))
    source: Any = dataset.source
    return (source.train, len(SHAPES_CLASSES)) if source.kind == "shapes" else _TRAIN_SIZES.get(source.kind)


def _beton_gigabytes(params: Params) -> float:
    """Estimate the size of all betons in GB: the pixels of the training splits, plus 20 % for the test splits."""
    pixels = 0
    for name in grid.dataset_names(params):
        num_images, _ = _count_train_images_and_classes(name, params.datasets[name]) or (0, 0)
        pixels += num_images * params.datasets[name].image_size ** 2 * 3
    return 1.2 * pixels / 1e9
