"""What a benchmark run was asked for, and the paper's policy and sizes that every part shares."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr.params import Method, Relational, RotationNet, SimCLR, Supervised
from rr.views.augmentation import Augmentation

IMAGES, VIEWS, FEATURES = 64, 32, 64  # M, K and D of the paper's Conv-4 runs
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)

# The paper's policy for relational reasoning.
AUGMENTATION = Augmentation(
    crop="resized", flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2
)
# The paper's policy for supervised training.
CROP_FLIP = Augmentation(crop="padded", padding=0.125, flip=0.5)


@dataclass(frozen=True)
class Settings:
    """The command line's choices.

    Attributes:
        steps: timed repeats of a case (a part of long cases takes fewer, and its rows say how many).
        threads: thread counts of both sides; None for each part's own.
        data: a converted data set's folder, which holds `train.beton`; None for generated pictures.
        small: sizes that only show that everything runs. Their times mean nothing.
    """

    steps: int = 20
    threads: tuple[int, ...] | None = None
    data: Path | None = None
    small: bool = False

    def threads_or(self, *default: int) -> tuple[int, ...]:
        """The thread counts asked for, or a part's own as far as there are cores."""
        if self.threads:
            return self.threads
        cores = os.cpu_count() or 1
        return tuple(count for count in default if count <= cores) or (cores,)

    def few(self, most: int) -> int:
        """Repeats of a case that takes long."""
        return min(self.steps, most)


def workers() -> int:
    """Worker processes of the reference's loader: one per core."""
    return os.cpu_count() or 1


FOR_EVER = 10**6  # epochs; the benchmark ends the loop


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
