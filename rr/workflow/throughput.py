"""Run the training loop of `rr pretrain` to measure its speed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rr import paths
from rr.params import DatasetConfig, DynamicsConfig, MethodConfig


class StopTraining(Exception):
    """Raised by the callback `on_step` to end `train_until_stopped`."""


@dataclass(frozen=True)
class _OutputPaths(paths.PretrainPaths):
    """The files of a pretraining run in any directory."""

    directory: Path

    @property
    def folder(self) -> Path:
        return self.directory

    @property
    def checkpoint(self) -> Path:
        return self.directory / "resume.pt"


def train_until_stopped(
    config: MethodConfig,
    dataset: DatasetConfig,
    num_classes: int,
    beton: Path,
    directory: Path,
    on_step: Callable[[int], None],
    *,
    device: str,
    threads: int,
    backbone: str = "conv4",
    precision: str = "float32",
) -> None:
    """Run `rr.pretrain.pretrain` until `on_step` raises StopTraining.

    The training loop is that of `rr pretrain`, including data loading, views, history and checkpoints. torch uses the
    number of threads that `rr.compute.device.configure_backends` has set.

    Args:
        config: method to train.
        dataset: mean and standard deviation of the images.
        num_classes: number of classes of the dataset.
        beton: file with the training images.
        directory: empty directory for the outputs.
        on_step: called after each training step with its number of views.
        device: torch device.
        threads: number of threads that read images.
        backbone: name of the backbone.
        precision: `float32` or `bfloat16`.
    """
    from rr.pretrain import Job, pretrain

    job = Job(
        dataset=dataset,
        backbone=backbone,
        method=config,
        num_classes=num_classes,
        seed=0,
        precision=precision,
        dynamics=DynamicsConfig(every_n_epochs=0, images=50),
        fingerprint="throughput",
    )
    outputs = _OutputPaths("throughput", backbone, config.kind, 0, directory)
    try:
        pretrain(job, beton, outputs, device=device, threads=threads, on_step=on_step)
    except StopTraining:
        return
