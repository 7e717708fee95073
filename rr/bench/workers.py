"""The training programs that the benchmarks run alternately.

`python -m rr.bench.workers rr|reference TASK` runs one of these programs. TASK is a `TrainingTask` as JSON.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rr.bench.alternating import StepGate


@dataclass(frozen=True)
class TrainingTask:
    """A description of a training run for both implementations.

    Attributes:
        method: name of the method.
        views: number of views per image (K).
        batch_size: number of images per step (M).
        steps: number of steps per turn.
        num_classes: number of classes.
        threads: number of threads.
        workers: number of worker processes for the reference's data loader.
        beton: path of the images that rr reads.
        images: path of the images that the reference reads.
        labels: path of the labels that the reference reads.
        scratch: folder for rr's outputs.
        backbone: name of the backbone.
    """

    method: str
    views: int
    batch_size: int
    steps: int
    num_classes: int
    threads: int
    workers: int
    beton: str
    images: str
    labels: str
    scratch: str
    backbone: str = "conv4"

    def make_command(self, implementation: str) -> list[str]:
        """Return the command line that trains with the implementation "rr" or "reference"."""
        return [sys.executable, "-m", "rr.bench.workers", implementation, json.dumps(asdict(self))]


def train_with_rr(task: TrainingTask, gate: StepGate) -> None:
    """Train with the training loop of `rr pretrain`."""
    from rr.bench.settings import paper_config
    from rr.bench.training_loop import run_training_loop
    from rr.compute.torch_threads import configure_torch
    from rr.runtime.malloc import keep_freed_memory

    configure_torch(task.threads)
    keep_freed_memory()
    config = paper_config(task.method, task.views, task.batch_size)
    run_training_loop(
        config, task.num_classes, Path(task.beton), Path(task.scratch), gate.step_done, device="cpu",
        threads=task.threads, backbone=task.backbone,
    )  # fmt: skip


def train_with_reference(task: TrainingTask, gate: StepGate) -> None:
    """Train with the reference implementation. It reads the value of the loss after every step."""
    import numpy as np
    import torch

    from rr.bench import reference
    from rr.bench.settings import MEAN, STD

    torch.set_num_threads(task.threads)
    images, labels = np.load(task.images), np.load(task.labels)
    uses_resized_crops = task.method in ("relational", "simclr")
    make_transform = reference.relational_transform if uses_resized_crops else reference.supervised_transform
    data = reference.ImageDataset(images, labels, make_transform(images.shape[1], MEAN, STD), task.views)
    model = reference.build_model(task.method, task.num_classes, task.backbone)
    model.train()
    for views, targets in reference.repeat_forever(reference.make_loader(data, task.batch_size, task.workers)):
        model.train_step(views, targets)
        gate.step_done()


def main() -> None:
    """Train as specified on the command line until the benchmark stops requesting turns."""
    implementation, task = sys.argv[1], TrainingTask(**json.loads(sys.argv[2]))
    train = {"rr": train_with_rr, "reference": train_with_reference}[implementation]
    train(task, StepGate(task.steps))


if __name__ == "__main__":
    main()
