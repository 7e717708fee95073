"""Read and check `predictions.parquet`: the predicted class of each test image, or its coordinates on a map."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data.class_names_metadata import parse_class_names
from rr.report.inputs.files import damaged_file_error, read_bytes

_TOLERANCE = 1e-6  # allowed rounding error of a confidence


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for N test images.

    Attributes:
        class_names: the class names.
        labels: true classes, int64 (N,).
        predictions: predicted classes, int64 (N,).
        confidence: probability of each predicted class, float64 (N,) in [0, 1].
        index: row of each image in the raw file, int64 (N,).
    """

    class_names: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    index: np.ndarray


@dataclass(frozen=True)
class EmbeddingMap:
    """A two-dimensional map of the features of N test images.

    Attributes:
        class_names: the class names; empty if the images have no labels.
        labels: true classes, int64 (N,); -1 if unlabeled.
        clusters: cluster of each image, numbered from 0 in descending order of size, int64 (N,).
        coordinates: map coordinates without a unit, float32 (N, 2).
        index: row of each image in the raw file, int64 (N,).
        neighbors: for each image, the row numbers of its nearest images in these arrays, nearest first, int64 (N, K).
        thumbnails: each image as the bytes of a WebP file.
    """

    class_names: list[str]
    labels: np.ndarray
    clusters: np.ndarray
    coordinates: np.ndarray
    index: np.ndarray
    neighbors: np.ndarray
    thumbnails: list[bytes]


def read_predictions(path: Path) -> Predictions:
    """Read the predictions of a classification protocol.

    Raises:
        UserError: if the file is missing or damaged.
    """
    columns = {"label": pa.int64(), "prediction": pa.int64(), "confidence": pa.float64(), "index": pa.int64()}
    table, class_names = _read_table(path, columns)
    values = {name: table[name].to_numpy() for name in columns}
    _check_classes(path, values["label"], class_names)
    _check_classes(path, values["prediction"], class_names)
    if not ((values["confidence"] >= -_TOLERANCE) & (values["confidence"] <= 1 + _TOLERANCE)).all():
        raise damaged_file_error(path, "a confidence is not between 0 and 1")
    return Predictions(class_names, values["label"], values["prediction"], values["confidence"], values["index"])


def read_embedding_map(path: Path) -> EmbeddingMap:
    """Read the map of an embedding protocol.

    Raises:
        UserError: if the file is missing or damaged.
    """
    columns = {
        "label": pa.int64(), "cluster": pa.int64(), "x": pa.float32(), "y": pa.float32(), "index": pa.int64(),
        "neighbors": pa.list_(pa.int64()), "thumbnail": pa.binary(),
    }  # fmt: skip
    table, class_names = _read_table(path, columns)
    labels, clusters = table["label"].to_numpy(), table["cluster"].to_numpy()
    _check_classes(path, labels[labels >= 0], class_names)
    if clusters.min() < 0 or clusters.max() >= len(clusters):
        raise damaged_file_error(path, f"a cluster is not between 0 and {len(clusters) - 1}")
    coordinates = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    if not np.isfinite(coordinates).all():
        raise damaged_file_error(path, "a coordinate is not a finite number")
    index, neighbors = table["index"].to_numpy(), table["neighbors"].to_pylist()
    row_of_image = {number: row for row, number in enumerate(index.tolist())}
    has_unknown = any(number not in row_of_image for numbers in neighbors for number in numbers)
    if has_unknown or len({len(numbers) for numbers in neighbors}) > 1:
        raise damaged_file_error(path, "a neighbor is not an image in the table, or the numbers of neighbors differ")
    return EmbeddingMap(
        class_names, labels, clusters, coordinates, index,
        np.array([[row_of_image[number] for number in numbers] for numbers in neighbors], np.int64),
        table["thumbnail"].to_pylist(),
    )  # fmt: skip


def _read_table(path: Path, columns: dict[str, pa.DataType]) -> tuple[pa.Table, list[str]]:
    """Read the table and its class names.

    The table must have the given `columns` (a mapping from name to type), with no missing values.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(path)))
        class_names = parse_class_names(table.schema.metadata)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise damaged_file_error(path, f"not a Parquet file with class names: {reason}") from error
    for name, dtype in columns.items():
        if name not in table.column_names or table.schema.field(name).type != dtype or table[name].null_count:
            raise damaged_file_error(path, f"it needs a column {name} of type {dtype} without missing values")
    if not len(table):
        raise damaged_file_error(path, "the table has no rows")
    return table, class_names


def _check_classes(path: Path, classes: np.ndarray, class_names: list[str]) -> None:
    """Raise UserError if a label or prediction in `classes` is not a valid class index."""
    if len(classes) and (classes.min() < 0 or classes.max() >= len(class_names)):
        raise damaged_file_error(path, f"a label or prediction is not between 0 and {len(class_names) - 1}")
