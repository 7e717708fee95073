"""Write and read `index.parquet`, which holds one row per image of a converted dataset and the class names."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data.class_names import parse_class_names
from rr.errors import UserError
from rr.runtime.atomic import atomic_write


def write_index(path: Path, splits: np.ndarray, labels: np.ndarray, hashes: list[str], class_names: list[str]) -> None:
    """Write the index of a converted dataset, one row per image in the order of the raw file.

    Args:
        path: file to write.
        splits: split of each image (N,).
        labels: label of each image, int64 (N,).
        hashes: SHA-256 of the pixels of each image, N hexadecimal strings.
        class_names: name of each class, indexed by label; empty if the dataset has no labels.
    """
    names = [class_names[label] if 0 <= label < len(class_names) else None for label in labels]
    table = pa.table(
        {
            "index": np.arange(len(labels)),
            "split": pa.array(splits).dictionary_encode(),
            "label": labels,
            "class": pa.array(names, pa.string()),
            "sha256": hashes,
        }
    )
    metadata = {"class_names": json.dumps(class_names)}
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
