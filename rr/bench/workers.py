"""The programs that take turns: `python -m rr.bench.programs ours|reference <JSON>` trains, some steps a turn."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rr.bench.alternating import Turn


@dataclass(frozen=True)
class Task:
    """What both programs train: method, K, M; in how many steps a turn; and with what."""

    method: str
    views: int
    batch: int
    steps: int
    classes: int
    threads: int
    workers: int
    beton: str
    images: str
    labels: str
    scratch: str

    def command(self, side: str) -> list[str]:
        return [sys.executable, "-m", "rr.bench.workers", side, json.dumps(asdict(self))]


def ours(task: Task, turn: Turn) -> None:
    """The product's loop."""
    from rr.bench.settings import settings_of
    from rr.compute.device import settle
    from rr.workflow.throughput import train

    settle(task.threads)
    train(
        settings_of(task.method, task.views, task.batch), task.classes, Path(task.beton), Path(task.scratch),
        turn.done, device="cpu", threads=task.threads,
    )  # fmt: skip


def reference(task: Task, turn: Turn) -> None:
    """The paper's loop; the loss is read at every step."""
    import numpy as np
    import torch

    from rr.bench import reference as paper
    from rr.bench.settings import MEAN, STD

    torch.set_num_threads(task.threads)
    images, labels = np.load(task.images), np.load(task.labels)
    strong = task.method in ("relational", "simclr")
    build = paper.relational_transform if strong else paper.supervised_transform
    data = paper.Pictures(images, labels, build(images.shape[1], MEAN, STD), task.views)
    model = paper.build(task.method, task.classes)
    model.train()
    for views, targets in paper.endless(paper.loader(data, task.batch, task.workers)):
        model.step(views, targets)
        turn.done()


def main() -> None:
    side, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    {"ours": ours, "reference": reference}[side](task, Turn(task.steps))


if __name__ == "__main__":
    main()
