"""Read and write a dataset's feature file: a safetensors file with features, labels and indices.

Reading it does not load torch.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rr.errors import UserError
from rr.runtime.atomic import atomic_write


@dataclass(frozen=True)
class SplitFeatures:
    """The features of the images in one split, in beton order.

    Attributes:
        features: float32 (N, D).
        labels: label of each image, int64 (N,).
        index: row of each image in the raw file, int64 (N,).
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "SplitFeatures":
        """Return the features of the images in `rows`, int64 (R,)."""
        return SplitFeatures(self.features[rows], self.labels[rows], self.index[rows])


def write_features(path: Path, splits: Mapping[str, SplitFeatures]) -> None:
    """Write the features of several splits, keyed by split name. The same arguments produce byte-identical files.

    Raises:
        OSError: if the file cannot be written, for example because the disk is full.
    """
    arrays = {f"{split}.{name}": array for split, values in splits.items() for name, array in vars(values).items()}
    with atomic_write(path) as temporary:
        try:
            save_file(arrays, temporary)
        except SafetensorError as error:
            # The error number is only in the text, for example "I/O error: No space left on device (os error 28)".
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_features(path: Path, split: str) -> SplitFeatures:
    """Read the features of one split.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(f"{split}.{name}") for name in ("features", "labels", "index")}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): run rr extract again") from error
    return SplitFeatures(**arrays)
