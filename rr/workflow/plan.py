"""`rr plan`: what a grid would run, how many views that is, and how long it would take here."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rr import paths
from rr.data.index import class_names
from rr.errors import UserError
from rr.params import Dataset, Params
from rr.workflow import grid
from rr.workflow.estimates import Traffic, schedule, traffic
from rr.workflow.records import load_record

SECONDS = 3.0  # of steps that are timed, after one that is not
# Training pictures, and classes, of the sources whose size is known before they are fetched.
_KNOWN = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "cifar100_20": (50_000, 20),
    "stl10": (5_000, 10),
    "stl10_unlabelled": (100_000, 10),  # the test pictures' classes
    "tiny_imagenet": (100_000, 200),
    "slimagenet64": (160_000, 1000),
}
Rate = Callable[[Params, paths.Pretraining], float]


@dataclass
class Line:
    """The runs of one data set, backbone and method that are yet to be made."""

    runs: list[paths.Pretraining] = field(default_factory=list)
    done: int = 0


def plan(params: Params, rate: Rate, gpus: int = 1) -> str:
    """A table of the pretrainings that are not made yet, and sums; `rate` gives views a second of one run.

    A run is made where its record has the parameters of now. Hours are those of pretraining, one run at a time on each
    of `gpus` GPUs; without evaluation, DeepCluster's clustering, and what is read and written.
    """
    lines: dict[tuple[str, str, str], Line] = {}
    for run in grid.pretrainings(params):
        line = lines.setdefault((run.dataset, run.backbone, run.method), Line())
        if _is_made(params, run):
            line.done += 1
        else:
            line.runs.append(run)
    rows: list[tuple[str, ...]] = [
        ("data set", "backbone", "method", "runs", "made", "views a run", "views/s", "hours")
    ]
    total_views = 0
    hours: dict[paths.Pretraining, float] = {}  # of each run
    moved = []
    unknown: set[str] = set()
    for (dataset, backbone, method), line in lines.items():
        start = [dataset, backbone, method, f"{len(line.runs)}", f"{line.done}"]
        settings: Any = params.methods[method]
        pictures = _pictures(dataset, params.datasets[dataset])
        if not line.runs or not hasattr(settings, "epochs"):
            rows.append((*start, "0", "–", "0.0"))
            continue
        if pictures is None:
            unknown.add(dataset)
            rows.append((*start, "?", "?", "?"))
            continue
        images, classes = pictures
        views = images * settings.views * settings.epochs
        speed = rate(params, line.runs[0])
        total_views += len(line.runs) * views
        hours |= dict.fromkeys(line.runs, views / speed / 3600)
        moved += [traffic(params, line.runs[0], images, classes, views / speed)] * len(line.runs)
        rows.append((*start, f"{views:,}", f"{speed:,.0f}", f"{len(line.runs) * views / speed / 3600:,.1f}"))
    scores = list(grid.evaluations(params))
    text = [
        _aligned(rows),
        f"{sum(len(line.runs) for line in lines.values()):,} pretrainings, {total_views:,} views, "
        f"{sum(hours.values()):,.1f} hours one after the other; {len(scores):,} evaluations, not in the hours",
        f"betons: {_gigabytes(params):,.2f} GB, and about as much again in data/raw",
    ]
    if hours:
        text += [*_side_by_side(hours, gpus), _moved(moved, gpus)]
    if unknown:
        text.append(f"not known before rr convert: {', '.join(sorted(unknown))}")
    return "\n".join(text)


def _side_by_side(hours: dict[paths.Pretraining, float], gpus: int) -> list[str]:
    """How long `hours` take on several GPUs, and the run that no number of GPUs makes shorter."""
    longest = max(hours, key=lambda run: hours[run])
    found = schedule(list(hours.values()), gpus)
    names = f"{longest.method} on {longest.dataset} with {longest.backbone}"
    text = [f"critical path: {names}, {hours[longest]:,.1f} hours alone"]
    if gpus > 1:
        span = f"{found.least:,.1f} to {found.most:,.1f}"
        text.append(f"on {gpus} GPUs: {found.longest_first:,.1f} hours, the longest runs first; in any order {span}")
    return text


def _moved(moved: Sequence[Traffic], gpus: int) -> str:
    read, written = (sum(getattr(one, name) for one in moved) / 1e9 for name in ("read", "written"))
    # A run keeps its newest state and the one before, until it is done.
    kept = 2 * sum(sorted((one.state for one in moved), reverse=True)[:gpus]) / 1e9
    return (
        f"pretraining reads {read:,.2f} GB of pixels and writes {written:,.2f} GB of states, {kept:,.3f} GB at a time"
    )


def measured(device: str) -> Rate:
    """Rates of the training loop on this machine: steps on pictures of noise, each kind of run once."""
    known: dict[tuple[Any, ...], float] = {}

    def rate(params: Params, run: paths.Pretraining) -> float:
        data = params.datasets[run.dataset]
        key = (run.backbone, data.side, params.methods[run.method].model_dump_json(exclude={"epochs"}))
        if key not in known:
            known[key] = _measure(params, run, data, device)
        return known[key]

    return rate


def _measure(params: Params, run: paths.Pretraining, data: Dataset, device: str) -> float:
    from rr.compute import device as devices
    from rr.data import beton
    from rr.workflow.throughput import Enough, train

    method: Any = params.methods[run.method]
    changes: dict[str, Any] = {"epochs": 10**6}
    if method.kind == "deepcluster":
        changes |= {"clusters": 10, "clusters_per": "dataset"}  # clustering is not what is measured
    seen = 0
    began: float | None = None
    spent = 0.0

    def on_step(views: int) -> None:
        nonlocal seen, began, spent
        if device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        if began is None:
            began = now
            return
        seen, spent = seen + views, now - began
        if spent >= SECONDS:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        count = 8 * method.batch_size
        noise = np.random.default_rng(0).integers(0, 256, (count, data.side, data.side, 3), np.uint8)
        path = Path(folder, "train.beton")
        beton.write(path, noise, np.arange(count) % 10, np.arange(count))
        devices.settle(params.threads)
        train(
            method.model_copy(update=changes), 10, path, Path(folder), on_step, device=device, threads=params.threads,
            backbone=run.backbone, precision=params.precision,
        )  # fmt: skip
    return seen / spent


def _is_made(params: Params, run: paths.Pretraining) -> bool:
    if not paths.run_record(run.folder).is_file():
        return False
    try:
        return bool(load_record(run.folder)["params"] == grid.pretrain(params, run).params)
    except UserError:
        return False  # a damaged record is no record


def _pictures(name: str, data: Dataset) -> tuple[int, int] | None:
    """How many training pictures a data set has, and classes; None where that is not known yet."""
    place = paths.Dataset(name)
    if paths.run_record(place.converted).is_file():
        return int(load_record(place.converted)["images"]["train"]), len(class_names(place.index))
    source: Any = data.source
    return (source.train, 10) if source.kind == "shapes" else _KNOWN.get(source.kind)


def _gigabytes(params: Params) -> float:
    """Pixels of the training splits, which the test splits add a fifth to at most."""
    found = 0
    for name in grid.data(params):
        images, _ = _pictures(name, params.datasets[name]) or (0, 0)
        found += images * params.datasets[name].side ** 2 * 3
    return 1.2 * found / 1e9


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = 3  # columns of words
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
