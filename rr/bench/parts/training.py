"""Part `training`: complete training steps, from images in memory to the update of the weights."""

import tempfile
from pathlib import Path

from rr.bench.alternating import time_programs
from rr.bench.dataset import prepare_data
from rr.bench.measure import PartResult, summarize
from rr.bench.settings import IMAGES, VIEWS, Settings, num_loader_workers
from rr.bench.workers import TrainingTask

_PREFETCHED_BATCHES = 2  # mini-batches that each worker process of a DataLoader prefetches


def run(settings: Settings) -> PartResult:
    """Compare training steps with Conv-4: relational with K = 32 and K = 4, SimCLR, RotationNet and supervised."""
    cases = [("relational", VIEWS, IMAGES), ("relational", 4, IMAGES)]
    cases += [("simclr", 2, 128), ("rotation", 1, 128), ("supervised", 1, 128)]
    if settings.smoke_test:
        cases = [("relational", 2, 16)]
    result = PartResult()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(settings, 256 if settings.smoke_test else 12_800, Path(folder))
        for threads in settings.available_thread_counts(2):
            for method, views, batch_size in cases:
                # A turn has many steps if they are short, because stopping and resuming a program also takes time.
                steps = 1 if settings.smoke_test else VIEWS * IMAGES // (views * batch_size)
                task = TrainingTask(
                    method=method, views=views, batch_size=batch_size, steps=steps, num_classes=data.num_classes,
                    threads=threads, workers=num_loader_workers(), beton=str(data.beton), images=str(data.images),
                    labels=str(data.labels), scratch=tempfile.mkdtemp(dir=folder),
                )  # fmt: skip
                # The warm-up covers the compilation in rr and the batches that the reference has prefetched.
                warmup = 2 if settings.smoke_test else -(-(_PREFETCHED_BATCHES * task.workers + 1) // steps)
                commands = [task.make_command("rr"), task.make_command("reference")]
                timings = time_programs(commands, settings.steps, warmup)
                units = views * batch_size * steps
                names = [("rr", units), ("DataLoader, PIL, NCHW, all pairs", units)]
                case = f"{method}, K={views}, M={batch_size}"
                result.cases.append(summarize(case, "views", threads, names, timings))
    result.notes = [
        f"Both train on {data.name}. A turn has 2,048 views, during which the other process and its worker processes "
        f"are stopped. In addition to its threads, the reference has one worker process per core "
        f"({num_loader_workers()}).",
        "Both run with OMP_WAIT_POLICY=PASSIVE, the default of rr.",
        "rr runs the training loop of rr pretrain, with data loading, views, history and checkpoints.",
    ]
    return result
