"""The product's own training loop, with a say after every step.

`rr.pretrain.loop` reports each step to its `Progress`. Another object in that place sees the very loop that `rr pretrain`
runs, its data, views, history and saved states included, without a copy of it here.
"""

from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from rr import paths
from rr.bench.listener import OnStep, listening
from rr.bench.settings import MEAN, STD
from rr.params import Dataset, Dynamics, Method, ShapesSource


class Enough(Exception):
    """Raised by a listener to end the loop."""


@dataclass(frozen=True)
class _Outputs(paths.Pretraining):
    """A pretraining's files in a folder of the benchmark's own."""

    scratch: Path

    @property
    def folder(self) -> Path:
        return self.scratch

    @property
    def resume(self) -> Path:
        return self.scratch / "resume.pt"


def train(
    settings: Method,
    classes: int,
    beton: Path,
    scratch: Path,
    on_step: OnStep,
    *,
    device: str,
    threads: int,
    backbone: str = "conv4",
    precision: str = "float32",
) -> None:
    """Run `rr.pretrain.pretrain` from its beginning until `on_step` raises Enough. The caller settles the threads."""
    from rr.pretrain import loop

    job = loop.Job(
        dataset=Dataset(source=ShapesSource(kind="shapes", train=10, test=10, seed=0), side=32, mean=MEAN, std=STD),
        backbone=backbone,
        method=settings,
        classes=classes,
        seed=0,
        precision=precision,
        dynamics=Dynamics(every=0, images=50),
        fingerprint="bench",
    )
    outputs = _Outputs("bench", backbone, settings.kind, 0, scratch)
    with mock.patch.object(loop, "Progress", listening(on_step)):
        try:
            loop.pretrain(job, beton, outputs, device=device, threads=threads)
        except Enough:
            return
