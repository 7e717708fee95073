"""Run the full training loop of `rr pretrain` for a benchmark."""

from collections.abc import Callable
from pathlib import Path

from rr import paths
from rr.bench.settings import DATASET
from rr.params import MethodConfig
from rr.pretrain import pretrain
from rr.workflow.training_speed import make_timing_job


class StopTraining(Exception):
    """Raised by the `on_step` callback to end `run_training_loop`."""


def run_training_loop(
    config: MethodConfig,
    num_classes: int,
    beton: Path,
    directory: Path,
    on_step: Callable[[int], None] | None = None,
    *,
    device: str,
    threads: int,
    backbone: str = "conv4",
    precision: str = "float32",
) -> None:
    """Run `rr.pretrain.pretrain` to the end or until `on_step` raises StopTraining.

    This includes data loading, views, history and checkpoints. `on_step` is called after each step with the number of
    views in that step. `directory` is an empty folder for the outputs. torch uses the number of threads that
    `rr.compute.torch_threads.configure_torch` has set; `threads` is the number of threads that read images.
    """
    job = make_timing_job(config, DATASET, backbone, num_classes, precision)
    outputs = paths.PretrainFolder("throughput", backbone, config.kind, 0, directory)
    try:
        pretrain(job, beton, outputs, device=device, threads=threads, on_step=on_step)
    except StopTraining:
        return
