"""Part `startup`: whole processes, from their start to the help text and to the first training step."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ruamel.yaml import YAML

from rr import paths, stages
from rr.bench.alternating import Player
from rr.bench.measure import Contestant, Part, alternate, row
from rr.bench.settings import IMAGES, MEAN, STD, Settings, settings_of, workers
from rr.bench.workers import Task

_VIEWS = 4


def run(settings: Settings) -> Part:
    """Every process is begun anew; one of each before the timed ones fills the caches."""
    repeats, warmup = settings.few(5), 0 if settings.small else 1
    part = Part()
    help_text = Contestant("rr --help", _finished(["-m", "rr", "--help"], Path.cwd()), 1)
    part.rows.append(row("help", "starts", 1, [(help_text.name, 1)], alternate([help_text], repeats)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for threads in settings.threads_or(2):
            task = _project(folder, 64 if settings.small else 5_000, threads)
            cell = ["--dataset", "shapes", "--backbone", "conv4", "--method", "relational", "--seed", "1"]
            ours = ["-m", "rr.bench.first_step", "pretrain", *cell, "--device", "cpu", "--params", "params.yaml"]
            contestants = [
                Contestant("rr pretrain", _finished(ours, folder), 1),
                Contestant("reference", lambda task=task: _first_step(task), 1),  # type: ignore[misc]
            ]
            names = [(contestant.name, 1) for contestant in contestants]
            part.rows.append(row("first step", "starts", threads, names, alternate(contestants, repeats, warmup)))
    part.notes = [
        f"first step: relational, K={_VIEWS}, M={IMAGES}, Conv-4; from the start of the process to the end of the step",
        "rr: interpreter, imports, parameters, hashes of its inputs and code, FFCV's decoding of the whole split, "
        "compiled kernels from numba's cache, the picture of views, the step",
        "reference: interpreter, imports, arrays from disk, worker processes and their first mini-batches, the step",
        "the reference's CPU seconds are without its worker processes",
    ]
    return part


def _finished(arguments: Sequence[str], folder: Path) -> Callable[[], None]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def work() -> None:
        subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    return work


def _first_step(task: Task) -> None:
    player = Player(task.command("reference"))
    try:
        player.turn()
    finally:
        player.end()


def _project(folder: Path, count: int, threads: int) -> Task:
    """A project with converted pictures in `folder`, and the same pictures for the reference."""
    import numpy as np

    from rr.data.beton import Beton

    source = {"kind": "shapes", "train": count, "test": 10, "seed": 0}
    method = settings_of("relational", _VIEWS, 32 if count < IMAGES * 2 else IMAGES).model_dump(mode="json")
    axes = {"data": "shapes", "dataset": "shapes", "backbone": "conv4", "method": "relational", "seed": 1}
    params = {
        "grid": {axis: [value] for axis, value in {**axes, "target": "shapes", "protocol": "knn"}.items()},
        "threads": threads,
        "precision": "float32",
        "dynamics": {"every": 0, "images": 50},
        "datasets": {"shapes": {"source": source, "side": 32, "mean": list(MEAN), "std": list(STD)}},
        "methods": {"relational": method},
        "protocols": {"knn": {"kind": "knn", "neighbours": 1, "temperature": 0.1}},
    }
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):  # their progress
        stages.fetch("shapes", None, paths.PARAMS)
        stages.convert("shapes", paths.PARAMS)
    beton = folder / "data/beton/shapes/train.beton"
    data = Beton(beton, threads=1)
    assert data.images is not None
    np.save(folder / "images.npy", data.images)
    np.save(folder / "labels.npy", data.labels)
    return Task(
        method="relational", views=_VIEWS, batch=IMAGES, steps=1, classes=10, threads=threads, workers=workers(),
        beton=str(beton), images=str(folder / "images.npy"), labels=str(folder / "labels.npy"), scratch=str(folder),
    )  # fmt: skip
