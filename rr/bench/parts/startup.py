"""The `startup` part: the time from a process's start to its help text, the start of its work, or its first step."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from rr import commands, paths
from rr.bench.alternating import start_workers
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import IMAGES, MEAN, STD, Settings, num_loader_workers, paper_config
from rr.bench.workers import TrainingTask
from rr.data.beton import Beton

_VIEWS = 4
_IMPORT_TORCH = "import os, torch; os._exit(0)"  # exits without unloading libraries, like the other processes
_RUN = ("--dataset", "shapes", "--backbone", "conv4", "--seed", "1", "--method")
_TARGET = (*_RUN, "random", "--target", "shapes")
# The function in which each stage's work begins (the first image, mini-batch or result file), and the stage's command.
_FIRST_WORK = {
    "rr convert": ("rr.data.image_decoding:decode_image", ("convert", "--dataset", "shapes")),
    "rr pretrain": ("rr.pretrain.loop:Trainer.run_step", ("pretrain", *_RUN, "relational")),
    "rr extract": ("rr.extract:extract_features", ("extract", *_TARGET)),
    "rr evaluate, linear": ("rr.evaluate.linear:train_and_predict", ("evaluate", *_TARGET, "--protocol", "linear")),
    "rr evaluate, knn": ("rr.evaluate.knn:predict_probabilities", ("evaluate", *_TARGET, "--protocol", "knn")),
    "rr evaluate, retrieval": ("rr.evaluate.retrieval:rank_gallery", ("evaluate", *_TARGET, "--protocol", "retrieval")),
    "rr report": ("rr.report.stage:collect_results", ("report",)),
}
_AFTER_FIRST_STEP = "rr.pretrain.loop:Trainer.save_if_due_and_exit_on_signal"


def run(settings: Settings) -> PartResult:
    """Time rr and the reference, each in a new process. For each, an untimed first process fills the caches."""
    repeats, warmup = min(settings.steps, 5), 0 if settings.smoke_test else 1
    result = PartResult()
    help_text = Candidate("rr --help", _make_python_call(["-m", "rr", "--help"], Path.cwd()), 1)
    result.cases.append(compare_candidates("help", "starts", 1, [help_text], repeats))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for threads in settings.choose_thread_counts(2):
            task = _create_project(folder, 64 if settings.smoke_test else 5_000, threads)
            candidates = [Candidate("import torch", _make_python_call(["-c", _IMPORT_TORCH], folder), 1)]
            for stage, (function, command) in _FIRST_WORK.items():
                call = _make_python_call(["-m", "rr.bench.exit_at_call", function, *command], folder)
                candidates.append(Candidate(stage, call, 1))
            case = compare_candidates("first work", "starts", threads, candidates, repeats, warmup)
            result.cases.append(case)
            torch_seconds = case.candidates[0].cpu.median
            seconds = {stage.name: stage.cpu.median - torch_seconds for stage in case.candidates[1:]}
            result.notes.append(
                f"CPU seconds until the work begins, minus those of `import torch`, with {threads} threads: "
                + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items())
            )
            command = ("pretrain", *_RUN, "relational", "--device", "cpu", "--params", "params.yaml")
            call = _make_python_call(["-m", "rr.bench.exit_at_call", _AFTER_FIRST_STEP, *command], folder)
            candidates = [
                Candidate("rr pretrain", call, 1),
                Candidate("reference", lambda task=task: _run_first_step(task), 1),  # type: ignore[misc]
            ]
            result.cases.append(compare_candidates("first step", "starts", threads, candidates, repeats, warmup))
    result.notes += [
        "A start includes reading the parameters, hashing the inputs and the code, and checking the grid. The work "
        "begins with the first image, mini-batch or result file.",
        f"The method is relational with K={_VIEWS}, M={IMAGES} and Conv-4. The first step is timed "
        "from the start of the process to the end of the step.",
        "The time for rr includes starting the interpreter, importing modules, reading the parameters, hashing the "
        "inputs and the code, loading the training split, loading compiled kernels from numba's cache, rendering the "
        "image of example views, and the step.",
        "The time for the reference includes starting the interpreter, importing modules, loading arrays from disk, "
        "starting worker processes and waiting for their first mini-batches, and the step. The CPU time does not "
        "include the worker processes.",
    ]
    return result


def _make_python_call(arguments: Sequence[str], folder: Path) -> Callable[[], None]:
    """Return a function that runs Python with these arguments in `folder` until it exits."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def run_python() -> None:
        subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run_python


def _run_first_step(task: TrainingTask) -> None:
    with start_workers([task.make_command("reference")]) as (worker,):
        worker.run_turn()


def _create_project(folder: Path, num_images: int, threads: int) -> TrainingTask:
    """Create a project in `folder` with all inputs that the stages need, and the same images for the reference.

    The grid uses random weights so that all its stages run quickly. It does not include the method used to time
    the first step. Return the reference's task.
    """
    source = {"kind": "shapes", "train": num_images, "test": 10, "seed": 0}
    batch_size = 32 if num_images < IMAGES * 2 else IMAGES
    grid = {"data": ["shapes"], "dataset": ["shapes"], "backbone": ["conv4"], "method": ["random"], "seed": [1]}
    params = {
        "grid": grid | {"target": ["shapes"], "protocol": ["linear", "knn", "retrieval"]},
        "threads": threads,
        "precision": "float32",
        "dynamics": {"every_n_epochs": 0, "images": 50},
        "datasets": {"shapes": {"source": source, "image_size": 32, "mean": list(MEAN), "std": list(STD)}},
        "methods": {
            "random": {"kind": "random"},
            "relational": paper_config("relational", _VIEWS, batch_size).model_dump(mode="json"),
        },
        "protocols": {
            "linear": {"kind": "linear", "label_fraction": 1.0, "epochs": 1, "batch_size": 128, "learning_rate": 0.001},
            "knn": {"kind": "knn", "neighbors": 1, "temperature": 0.1},
            "retrieval": {"kind": "retrieval", "distance": "cosine", "cutoffs": [1]},
        },
    }
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):  # hides the progress
        commands.run_fetch("shapes", None, paths.PARAMS_FILE)
        commands.run_convert("shapes", paths.PARAMS_FILE)
        run = paths.PretrainPaths("shapes", "conv4", "random", 1)
        commands.run_pretrain(run, "cpu", paths.PARAMS_FILE)
        commands.run_extract(paths.FeaturePaths(run, "shapes"), "cpu", paths.PARAMS_FILE)
        for protocol in ("linear", "knn", "retrieval"):
            commands.run_evaluate(paths.EvaluationPaths(run, "shapes", protocol), "cpu", paths.PARAMS_FILE)
    path = folder / "data/beton/shapes/train.beton"
    beton = Beton(path, threads=1)
    assert beton.images is not None
    np.save(folder / "images.npy", beton.images)
    np.save(folder / "labels.npy", beton.labels)
    return TrainingTask(
        method="relational", views=_VIEWS, batch_size=IMAGES, steps=1, num_classes=10, threads=threads,
        workers=num_loader_workers(), beton=str(path), images=str(folder / "images.npy"),
        labels=str(folder / "labels.npy"), scratch=str(folder),
    )  # fmt: skip
