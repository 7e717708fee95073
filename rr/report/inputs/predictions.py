"""What evaluations found for each test picture, read and checked: guesses of classes, and places on a map."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import class_names as names
from rr.report.inputs.files import damaged, read

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Guesses:
    """What a classifier said: labels and predictions int64 (N,), confidence float64 (N,) in [0, 1]."""

    class_names: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Plane:
    """A map of the space of representations: labels int64 (N,), places float32 (N, 2) without a unit."""

    class_names: list[str]
    labels: np.ndarray
    places: np.ndarray


def guesses(path: Path) -> Guesses:
    """Read the predictions of a classification. Raises UserError that names a missing or damaged file."""
    table, class_names = _table(path, {"label": pa.int64(), "prediction": pa.int64(), "confidence": pa.float64()})
    found = Guesses(class_names, *(table[name].to_numpy() for name in ("label", "prediction", "confidence")))
    _check_classes(path, found.predictions, class_names)
    if not ((found.confidence >= -_ROUNDING) & (found.confidence <= 1 + _ROUNDING)).all():
        raise damaged(path, "a confidence is not between 0 and 1")
    return found


def plane(path: Path) -> Plane:
    """Read the map of an embedding. Raises UserError that names a missing or damaged file."""
    table, class_names = _table(path, {"label": pa.int64(), "x": pa.float32(), "y": pa.float32()})
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    if not np.isfinite(places).all():
        raise damaged(path, "a place is no finite number")
    return Plane(class_names, table["label"].to_numpy(), places)


def _table(path: Path, columns: dict[str, pa.DataType]) -> tuple[pa.Table, list[str]]:
    """Read `columns` (without gaps) and the names of the classes, of which the labels must be positions."""
    try:
        table = pq.read_table(pa.BufferReader(read(path)))
        class_names = names.parse(table.schema.metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, f"no Parquet file with class_names: {' '.join(str(error).split())}") from error
    for name, kind in columns.items():
        if name not in table.column_names or table.schema.field(name).type != kind or table[name].null_count:
            raise damaged(path, f"no column {name} of {kind} without gaps")
    if not len(table):
        raise damaged(path, "no rows")
    _check_classes(path, table["label"].to_numpy(), class_names)
    return table, class_names


def _check_classes(path: Path, found: np.ndarray, class_names: list[str]) -> None:
    if found.min() < 0 or found.max() >= len(class_names):
        raise damaged(path, f"a class that is none of the {len(class_names)}")
