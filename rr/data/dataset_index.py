"""Write and read `index.parquet`: one row per image of a converted dataset, the class names and the preprocessing."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data.class_names_metadata import parse_class_names
from rr.data.preprocessing import Preprocessing
from rr.errors import UserError
from rr.runtime.atomic import atomic_write


def write_index(
    path: Path,
    image_names: list[str],
    splits: np.ndarray,
    labels: np.ndarray,
    hashes: list[str],
    class_names: list[str],
    preprocessing: Preprocessing,
) -> None:
    """Write the index of a converted dataset, one row per image in the order of the raw file.

    Args:
        path: file to write.
        image_names: name of each image in the raw file.
        splits: split of each image (N,).
        labels: label of each image, int64 (N,).
        hashes: SHA-256 of the pixels of each image, N hexadecimal strings.
        class_names: name of each class, indexed by label; empty if the dataset has no labels.
        preprocessing: the preprocessing of the dataset.
    """
    names = [class_names[label] if 0 <= label < len(class_names) else None for label in labels]
    table = pa.table(
        {
            "index": np.arange(len(labels)),
            "path": pa.array(image_names, pa.string()),
            "split": pa.array(splits).dictionary_encode(),
            "label": labels,
            "class": pa.array(names, pa.string()),
            "sha256": hashes,
        }
    )
    metadata = {"class_names": json.dumps(class_names), "preprocessing": json.dumps(asdict(preprocessing))}
    with atomic_write(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_class_names(path: Path) -> list[str]:
    """Return the class names of a converted dataset; the list is empty if it has no labels.

    Raises:
        UserError: if the index is missing or damaged.
    """
    try:
        return parse_class_names(pq.read_schema(path).metadata)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): run rr convert for this dataset") from error


def read_preprocessing(path: Path) -> Preprocessing:
    """Return the preprocessing of a converted dataset.

    `rr convert` writes the mean and std from params.yaml or, if they are not set there, the values that it computed.

    Raises:
        UserError: if the index is missing or damaged, or if an earlier version of rr wrote it.
    """
    try:
        values = json.loads((pq.read_schema(path).metadata or {})[b"preprocessing"])
        return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is missing or damaged, or lacks the preprocessing ({error}): run rr convert for this dataset"
        ) from error
