"""`index.parquet`: a row per picture of a converted data set, and the names of its classes."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import class_names as names
from rr.errors import UserError
from rr.runtime.atomic import replacing


def write(target: Path, splits: np.ndarray, labels: np.ndarray, hashes: list[str], class_names: list[str]) -> None:
    """Write number, split, label, class and sha256 (of the pixels) of each picture, in the raw file's order."""
    shown = [class_names[label] if 0 <= label < len(class_names) else None for label in labels]
    table = pa.table(
        {
            "index": np.arange(len(labels)),
            "split": pa.array(splits).dictionary_encode(),
            "label": labels,
            "class": pa.array(shown, pa.string()),
            "sha256": hashes,
        }
    )
    metadata = {"class_names": json.dumps(class_names)}
    with replacing(target) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def class_names(path: Path) -> list[str]:
    """The class names of a converted data set; empty when it has no labels. Raises UserError for a damaged index."""
    try:
        return names.parse(pq.read_schema(path).metadata)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): run rr convert") from error
