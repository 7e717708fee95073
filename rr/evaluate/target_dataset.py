"""The dataset on which a backbone is evaluated."""

from dataclasses import dataclass
from pathlib import Path

from rr.data.dataset_index import read_class_names, read_preprocessing
from rr.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class TargetDataset:
    """The dataset on which a backbone is evaluated.

    Attributes:
        name: name of the dataset.
        preprocessing: how its images are turned into network inputs.
        betons: path of each split's beton ("train" and "test").
        class_names: class names by label; empty if the dataset has no labels.
    """

    name: str
    preprocessing: Preprocessing
    betons: dict[str, Path]
    class_names: list[str]


def read_target_dataset(name: str, betons: dict[str, Path], index: Path) -> TargetDataset:
    """Return the converted dataset `name`. Its preprocessing and class names are read from `index`.

    Raises:
        UserError: if the index is missing or damaged.
    """
    return TargetDataset(name, read_preprocessing(index), betons, read_class_names(index))
