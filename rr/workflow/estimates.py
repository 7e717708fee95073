"""A grid's pretrainings on paper: spread over several GPUs, and what they would read and write."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rr import backbones, methods, paths
from rr.data.beton import RESIDENT_BYTES
from rr.params import Params
from rr.pretrain import checkpoint
from rr.pretrain.loop import SECONDS_BETWEEN_SAVES

_LABEL = 8  # bytes


@dataclass(frozen=True)
class Schedule:
    """How long runs take on several GPUs, one at a time on each; in the unit of their durations."""

    longest_first: float
    least: float  # no order takes less: some GPU has its share of the sum, and some GPU the longest run
    most: float  # no order that lets no GPU wait while a run waits takes more (R. L. Graham, 1966)


@dataclass(frozen=True)
class Traffic:
    """Bytes that one pretraining moves: betons read, states written while it trains, and the size of one state."""

    read: int
    written: int
    state: int


def schedule(durations: Sequence[float], gpus: int) -> Schedule:
    """Spread runs of `durations` over `gpus` GPUs."""
    ends = [0.0] * max(1, min(gpus, len(durations)))  # a GPU without a run ends nothing
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(ends, ends[0] + duration)
    longest, share = max(durations, default=0.0), sum(durations) / gpus
    return Schedule(max(ends), max(longest, share), share + (1 - 1 / gpus) * longest)


def traffic(params: Params, run: paths.Pretraining, images: int, classes: int, seconds: float) -> Traffic:
    """What `run` reads and writes when it trains for `seconds` on `images` pictures of `classes`, without a stop.

    Pixels are read once where they stay in memory, else in every epoch. A state is saved after each epoch and after
    each `SECONDS_BETWEEN_SAVES` within one, when DeepCluster's has its labels too. All are taken to be as large as the
    last, which has the whole history.
    """
    settings: Any = params.methods[run.method]
    pixels = images * params.datasets[run.dataset].side ** 2 * 3
    method = methods.build(settings, backbones.build(run.backbone), classes, images)
    state = checkpoint.size(method, settings.epochs)
    within = int(seconds / settings.epochs / SECONDS_BETWEEN_SAVES)
    labels = _LABEL * images if settings.kind == "deepcluster" and within else 0
    return Traffic(
        read=pixels if pixels <= RESIDENT_BYTES else pixels * settings.epochs,
        written=settings.epochs * (state + within * (state + labels)),
        state=state + labels,
    )
