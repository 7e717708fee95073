"""The dataset on which a backbone is evaluated."""

from dataclasses import dataclass
from pathlib import Path

from rr.data.index import Preprocessing


@dataclass(frozen=True)
class Target:
    """The dataset on which a backbone is evaluated.

    Attributes:
        name: name of the dataset.
        dataset: the preprocessing of the dataset.
        betons: path of the beton of each split, "train" and "test".
        class_names: names of the classes by label; empty if the dataset has no labels.
    """

    name: str
    dataset: Preprocessing
    betons: dict[str, Path]
    class_names: list[str]
