"""The dataset on which a backbone is evaluated."""

from dataclasses import dataclass
from pathlib import Path

from rr.data.index import Preprocessing


@dataclass(frozen=True)
class Target:
    """The dataset on which a backbone is evaluated.

    Attributes:
        name: name of the dataset.
        dataset: how the dataset is preprocessed.
        betons: path of each split's beton ("train" and "test").
        class_names: class names by label; empty if the dataset has no labels.
    """

    name: str
    dataset: Preprocessing
    betons: dict[str, Path]
    class_names: list[str]
