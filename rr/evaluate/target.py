"""The dataset on which a backbone is evaluated."""

from dataclasses import dataclass
from pathlib import Path

from rr.params import DatasetConfig


@dataclass(frozen=True)
class Target:
    """The dataset on which a backbone is evaluated.

    Attributes:
        name: name of the dataset.
        dataset: the dataset's section of params.yaml.
        betons: path of the beton of each split, "train" and "test".
        class_names: names of the classes by label; empty if the dataset has no labels.
    """

    name: str
    dataset: DatasetConfig
    betons: dict[str, Path]
    class_names: list[str]
