"""Estimate how long the pretraining runs of a grid take on several GPUs, and how much they read and write."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rr import backbones, methods, paths
from rr.data.beton import MAX_RESIDENT_BYTES
from rr.params import Params
from rr.pretrain import checkpoint

_LABEL_BYTES = 8  # size of a cluster label of DeepCluster


@dataclass(frozen=True)
class MakespanBounds:
    """Time that runs take on several GPUs, one run at a time on each GPU, in the unit of their durations.

    Attributes:
        longest_first: time if the longest runs start first.
        lower_bound: no order is faster, because some GPU has at least the mean load, and some GPU has the longest run.
        upper_bound: no order is slower if no GPU is idle while a run waits (R. L. Graham, 1966).
    """

    longest_first: float
    lower_bound: float
    upper_bound: float


@dataclass(frozen=True)
class IoEstimate:
    """Bytes that one pretraining run reads from betons and writes to checkpoints, and the size of a checkpoint."""

    read_bytes: int
    write_bytes: int
    checkpoint_bytes: int


def estimate_makespan(durations: Sequence[float], gpus: int) -> MakespanBounds:
    """Return bounds for the time that runs of these `durations` take on `gpus` GPUs."""
    finish_times = [0.0] * max(1, min(gpus, len(durations)))  # GPUs without a run do not count
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(finish_times, finish_times[0] + duration)
    longest, mean_load = max(durations, default=0.0), sum(durations) / gpus
    return MakespanBounds(max(finish_times), max(longest, mean_load), mean_load + (1 - 1 / gpus) * longest)


def estimate_io(
    params: Params, run: paths.PretrainPaths, num_images: int, num_classes: int, train_seconds: float
) -> IoEstimate:
    """Estimate the bytes that `run` reads and writes if it trains for `train_seconds` without interruption.

    Pixels are read once if they fit in memory, and otherwise in every epoch. A checkpoint is saved after each epoch
    and, within an epoch, every `SECONDS_BETWEEN_CHECKPOINTS`. One within an epoch also contains the cluster labels
    of DeepCluster. All checkpoints are assumed to be as large as the last one, which contains the whole history.
    """
    config: Any = params.methods[run.method]
    pixels = num_images * params.datasets[run.dataset].image_size ** 2 * 3
    method = methods.build(config, backbones.build(run.backbone), num_classes, num_images)
    checkpoint_size = checkpoint.estimate_checkpoint_size(method, config.epochs)
    saves_within_epoch = int(train_seconds / config.epochs / checkpoint.SECONDS_BETWEEN_CHECKPOINTS)
    labels = _LABEL_BYTES * num_images if config.kind == "deepcluster" and saves_within_epoch else 0
    return IoEstimate(
        read_bytes=pixels if pixels <= MAX_RESIDENT_BYTES else pixels * config.epochs,
        write_bytes=config.epochs * (checkpoint_size + saves_within_epoch * (checkpoint_size + labels)),
        checkpoint_bytes=checkpoint_size + labels,
    )
