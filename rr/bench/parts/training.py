"""Part `training`: whole steps, from the picture in memory to the optimiser's update."""

import tempfile
from pathlib import Path

from rr.bench import alternating
from rr.bench.dataset import prepare
from rr.bench.measure import Part, row
from rr.bench.settings import IMAGES, VIEWS, Settings, workers
from rr.bench.workers import Task

# Both sides begin with work that later steps do not have: compilation here, a queue to fill there.
_PREFETCHED = 2  # mini-batches that each worker of a DataLoader keeps ready


def run(settings: Settings) -> Part:
    """Relational at K = 32 and K = 4, SimCLR, RotationNet and supervised, Conv-4."""
    cases = [("relational", VIEWS, IMAGES), ("relational", 4, IMAGES)]
    cases += [("simclr", 2, 128), ("rotation", 1, 128), ("supervised", 1, 128)]
    if settings.small:
        cases = [("relational", 2, 16)]
    part = Part()
    with tempfile.TemporaryDirectory() as folder:
        sample = prepare(settings, 256 if settings.small else 12_800, Path(folder))
        for threads in settings.threads_or(2):
            for method, views, batch in cases:
                # Small steps are measured by the dozen: stopping and waking would be a large part of one.
                steps = 1 if settings.small else VIEWS * IMAGES // (views * batch)
                task = Task(
                    method=method, views=views, batch=batch, steps=steps, classes=sample.classes, threads=threads,
                    workers=workers(),
                    beton=str(sample.beton), images=str(sample.images), labels=str(sample.labels),
                    scratch=tempfile.mkdtemp(dir=folder),
                )  # fmt: skip
                warmup = 2 if settings.small else -(-(_PREFETCHED * task.workers + 1) // steps)
                runs = alternating.alternate([task.command("ours"), task.command("reference")], settings.steps, warmup)
                names = [(name, views * batch * task.steps) for name in ("rr", "DataLoader, PIL, NCHW, all pairs")]
                part.rows.append(row(f"{method}, K={views}, M={batch}", "views", threads, names, runs))
    part.notes = [
        f"{sample.name}; a process each, 2,048 views a turn, the other stopped with all its workers; "
        f"the reference has {workers()} worker processes beside its threads",
        "OMP_WAIT_POLICY=PASSIVE on both sides, as rr sets it",
        "rr runs the loop of rr pretrain itself: data, views, history, saved states",
    ]
    return part
