"""Part `head`: forward and backward of the relation head over all pairs, and what a step needs in memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rr.bench import memory, reference
from rr.bench.measure import Contestant, Part, compare
from rr.bench.settings import FEATURES, IMAGES, VIEWS, Settings
from rr.compute.device import settle
from rr.methods.relation.loss import RelationHead, relation_loss
from rr.methods.relation.pairs import roll_partners

Way = Literal["rr", "reference"]


def run(settings: Settings) -> Part:
    """K = 2, 4, 8 and 32 at M = 64 and D = 64, then the memory of the largest."""
    images = 8 if settings.small else IMAGES
    part = Part(notes=["focal loss; the features' gradient is included; the reference holds every pair (P, 2 D)"])
    for threads in settings.threads_or(1, 2):
        for views in (2, 4) if settings.small else (2, 4, 8, VIEWS):
            contestants = [Contestant(way, work(way, views, images), 1) for way in ("rr", "reference")]
            pairs = images * (views**2 - views)
            part.rows.append(
                compare(f"K={views}, M={images}, {pairs:,} pairs", "steps", threads, contestants, settings.steps)
            )
    if not settings.small:
        _add_memory(part)
    return part


def _add_memory(part: Part) -> None:
    ours, theirs = (peak_of(way, VIEWS, IMAGES) for way in ("rr", "reference"))
    if ours is None or theirs is None:
        part.notes.append("memory: unmeasured, as this system does not tell a process's peak")
        return
    part.rows[-1].facts["peak_memory_mib"] = {"rr": ours, "reference": theirs}
    part.notes.append(
        f"memory of the first step at K={VIEWS} above what the process held before: rr {ours:.0f} MiB, "
        f"reference {theirs:.0f} MiB (a process each)"
    )


def work(way: Way, views: int, images: int) -> Callable[[], Tensor]:
    """Forward and backward of one mini-batch's features."""
    torch.manual_seed(0)
    features_KMD = torch.randn(views, images, FEATURES, requires_grad=True)
    head: torch.nn.Module
    if way == "rr":
        head = ours = RelationHead(FEATURES)

        def loss() -> Tensor:
            return relation_loss(ours, features_KMD, roll_partners(views, images))[0]
    else:
        head = theirs = reference.RelationHead(FEATURES)

        def loss() -> Tensor:
            pairs, targets = reference.all_pairs(features_KMD)
            return reference.focal(theirs(pairs).squeeze(1), targets)

    def both() -> Tensor:
        head.zero_grad()
        features_KMD.grad = None
        value = loss()
        value.backward()
        return value

    return both


def peak_of(way: Way, views: int, images: int) -> float | None:
    """MiB that a step needs, measured in a process of its own."""
    code = f"from rr.bench.head import print_peak; print_peak({way!r}, {views}, {images})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def print_peak(way: Way, views: int, images: int) -> None:
    """The child of `peak_of`. A tiny step first, so that libraries and compiled code are not counted."""
    settle(1)
    work(way, views, 2)()
    step = work(way, views, images)
    print(json.dumps(memory.peak_of(step)))
