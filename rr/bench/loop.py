"""The product's own training loop, with a say after every step.

`rr.pretrain` reports each step to its `Progress`. Another object in that place sees the very loop that `rr pretrain`
runs, its data, views, history and saved states included, without a copy of it here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rr import paths
from rr.bench.listener import OnStep, listening
from rr.bench.settings import AUGMENTATION, CROP_FLIP, MEAN, STD
from rr.params import Dataset, Dynamics, Method, Relational, RotationNet, ShapesSource, SimCLR, Supervised

FOR_EVER = 10**6  # epochs; the benchmark ends the loop


class Enough(Exception):
    """Raised by a listener to end the loop."""


def settings_of(method: str, views: int, batch: int) -> Method:
    """The paper's settings of a method."""
    strong = method in ("relational", "simclr")
    common: dict[str, Any] = {
        "kind": method, "augmentation": AUGMENTATION if strong else CROP_FLIP, "views": views, "batch_size": batch,
        "epochs": FOR_EVER, "learning_rate": 1e-3,
    }  # fmt: skip
    match method:
        case "relational":
            return Relational(
                **common, head="relation", aggregation="cat", loss="focal", gamma=2.0, alpha=0.5, negatives="roll",
                labelled=0.0,
            )  # fmt: skip
        case "simclr":
            return SimCLR(**common, temperature=0.5, mean="of-ratios", hidden=256, outputs=64)
        case "rotation":
            return RotationNet(**common)
        case _:
            return Supervised(**(common | {"learning_rate": 0.1}), momentum=0.9, milestones=[0.5, 0.75], decay=0.1)


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
    from rr import pretrain

    job = pretrain.Job(
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
    with mock.patch.object(pretrain, "Progress", listening(on_step)):
        try:
            pretrain.pretrain(job, beton, outputs, device=device, threads=threads)
        except Enough:
            return
