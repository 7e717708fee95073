"""The `training` part: complete training steps, from images in memory to updated weights."""

import tempfile
from pathlib import Path

from rr.bench.alternating import time_programs
from rr.bench.dataset import prepare_data
from rr.bench.measure import PartResult, summarize
from rr.bench.settings import IMAGES, VIEWS, Settings, num_loader_workers
from rr.bench.workers import TrainingTask

_PREFETCHED_BATCHES = 2  # number of mini-batches that each DataLoader worker process prefetches


def run(settings: Settings) -> PartResult:
    """Compare training steps of four of the paper's methods with Conv-4, and of two of them with larger backbones."""
    cases = [("conv4", "relational", VIEWS, IMAGES), ("conv4", "relational", 4, IMAGES)]
    cases += [("conv4", "simclr", 2, 128), ("conv4", "rotation", 1, 128), ("conv4", "supervised", 1, 128)]
    cases += [("resnet32", "relational", 4, IMAGES), ("resnet32", "simclr", 2, 128), ("resnet34", "simclr", 2, 128)]
    if settings.smoke_test:
        cases = [("conv4", "relational", 2, 16), ("resnet32", "simclr", 2, 4)]
    result = PartResult()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(settings, 256 if settings.smoke_test else 12_800, Path(folder))
        for threads in settings.choose_thread_counts(2):
            for backbone, method, views, batch_size in cases:
                # If steps are short, a turn has many of them, because stopping and resuming a program also takes time.
                is_short = backbone == "conv4" and not settings.smoke_test
                steps = VIEWS * IMAGES // (views * batch_size) if is_short else 1
                task = TrainingTask(
                    method=method, views=views, batch_size=batch_size, steps=steps, num_classes=data.num_classes,
                    threads=threads, workers=num_loader_workers(), beton=str(data.beton), images=str(data.images),
                    labels=str(data.labels), scratch=tempfile.mkdtemp(dir=folder), backbone=backbone,
                )  # fmt: skip
                # The warm-up covers rr's compilation and the batches that the reference has prefetched.
                warmup = 2 if settings.smoke_test else -(-(_PREFETCHED_BATCHES * task.workers + 1) // steps)
                commands = [task.make_command("rr"), task.make_command("reference")]
                timings = time_programs(commands, settings.steps, warmup)
                units = views * batch_size * steps
                names = [("rr", units), ("DataLoader, PIL, NCHW, all pairs", units)]
                case = f"{backbone}, {method}, K={views}, M={batch_size}"
                result.cases.append(summarize(case, "views", threads, names, timings))
    result.notes = [
        f"Both train on {data.name}. A turn consists of 2,048 views or, with a ResNet, one step. During a turn, the "
        "other program and its worker processes are stopped. In addition to its threads, the reference has one worker "
        f"process per core ({num_loader_workers()}).",
        "Both run with OMP_WAIT_POLICY=PASSIVE, which is rr's default.",
        "rr runs the training loop of rr pretrain, including data loading, views, history and checkpoints.",
    ]
    return result
