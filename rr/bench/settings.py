"""Settings of a benchmark run, and the paper's sizes and hyperparameters that several parts use."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr.data.preprocessing import Preprocessing
from rr.params import (
    MethodConfig,
    RelationalConfig,
    RotationNetConfig,
    SimCLRConfig,
    SupervisedConfig,
)
from rr.params.optimizers import SGDConfig, StepsScheduleConfig
from rr.views.augmentation import Augmentation

IMAGES, VIEWS, FEATURES = 64, 32, 64  # M, K and D in the paper's Conv-4 runs
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
DATASET = Preprocessing(image_size=32, mean=MEAN, std=STD)
UNLIMITED_EPOCHS = 100_000  # never reached, because the benchmark stops training earlier

# The paper's augmentation for relational reasoning.
AUGMENTATION = Augmentation(
    crop="resized", flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2
)
# The paper's augmentation for supervised training.
CROP_FLIP = Augmentation(crop="padded", padding=0.125, flip=0.5)


@dataclass(frozen=True)
class Settings:
    """The options of `rr bench`.

    Attributes:
        steps: number of timed repeats per case. Slow cases use fewer repeats; the results show the actual number.
        threads: thread counts for both implementations, or None to use each part's defaults.
        data: folder of a converted dataset (with a `train.beton`), or None to use generated images.
        smoke_test: whether to use tiny sizes just to check that everything runs. The times are then meaningless.
    """

    steps: int = 20
    threads: tuple[int, ...] | None = None
    data: Path | None = None
    smoke_test: bool = False

    def choose_thread_counts(self, *defaults: int) -> tuple[int, ...]:
        """Return the requested thread counts or, by default, the `defaults` up to the number of cores.

        If all defaults exceed the number of cores, the result is the number of cores.
        """
        if self.threads:
            return self.threads
        cores = os.cpu_count() or 1
        return tuple(count for count in defaults if count <= cores) or (cores,)


def num_loader_workers() -> int:
    """Return the number of worker processes that the reference's data loader uses: one per core."""
    return os.cpu_count() or 1


def paper_config(method: str, views: int, batch_size: int) -> MethodConfig:
    """Return a method's config with the paper's hyperparameters and a practically unlimited number of epochs."""
    uses_resized_crops = method in ("relational", "simclr")
    common: dict[str, Any] = {
        "kind": method, "augmentation": AUGMENTATION if uses_resized_crops else CROP_FLIP, "views": views,
        "batch_size": batch_size, "epochs": UNLIMITED_EPOCHS, "learning_rate": 1e-3,
    }  # fmt: skip
    match method:
        case "relational":
            return RelationalConfig(
                **common, head="relation", aggregation="cat", loss="focal", gamma=2.0, alpha=0.5, negatives="roll",
                label_fraction=0.0,
            )  # fmt: skip
        case "simclr":
            return SimCLRConfig(**common, temperature=0.5, loss="log-mean-prob", hidden_dim=256, projection_dim=64)
        case "rotation":
            return RotationNetConfig(**common)
        case _:
            return SupervisedConfig(
                **(common | {"learning_rate": 0.1}),
                optimizer=SGDConfig(kind="sgd", momentum=0.9, weight_decay=0.0),
                schedule=StepsScheduleConfig(kind="steps", warmup_epochs=0, milestones=[0.5, 0.75], lr_decay=0.1),
            )
