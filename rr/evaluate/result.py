"""The result that every protocol returns."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rr.errors import UserError

# Names that the `evaluate` stage itself adds.
_ADDED_METRICS = ("test_images", "classes")
_ADDED_COLUMNS = ("index", "label")


@dataclass(frozen=True)
class ProtocolResult:
    """Result of one protocol on a target dataset.

    Attributes:
        metrics: metrics by name, for `metrics.json`. Their names are part of the file format. Accuracies and
            rates are in [0, 1]. The stage adds `test_images` and `classes`.
        rows: for each row of the table, the row of its image in `inputs.test`, int64 (R,).
        columns: additional table columns by name: numbers or booleans (R,), or (R, K) for a column of lists; text
            (R,); or an object array of bytes (R,). The stage adds `index` and `label`.
        examples: an image that illustrates the result, uint8 (H, W, 3).
        predictions: predicted class of the image in each row, int64 (R,), or None if the protocol predicts no classes.
    """

    metrics: dict[str, float]
    rows: np.ndarray
    columns: dict[str, np.ndarray]
    examples: np.ndarray
    predictions: np.ndarray | None = None


def check_result(kind: str, result: Any, num_images: int, num_classes: int) -> ProtocolResult:
    """Return the result of a user-defined protocol, with its metrics as Python numbers and its columns as arrays.

    Args:
        kind: the protocol's `kind` in params.yaml.
        result: the return value of its `evaluate` function.
        num_images: number of rows in `inputs.test`.
        num_classes: number of classes in the target dataset.

    Raises:
        UserError: if the result is not a `ProtocolResult`, or if one of its values does not match the
            description of `ProtocolResult`.
    """
    if not isinstance(result, ProtocolResult):
        raise UserError(f"{kind}.evaluate must return an rr.evaluate.result.ProtocolResult, got {result!r:.200}")
    for field, reserved in (("metrics", _ADDED_METRICS), ("columns", _ADDED_COLUMNS)):
        values = getattr(result, field)
        if not isinstance(values, dict):
            raise UserError(f"{kind}: {field} must be a dict, got {type(values).__name__}")
        if used := [name for name in values if name in reserved]:
            raise UserError(f"{kind}: {field} must not contain the name {used[0]}, which rr uses: rename it")
    if not result.metrics:
        raise UserError(f"{kind}: there are no metrics: return at least one")
    metrics = {}
    for name, value in result.metrics.items():
        number = _to_number(value)
        if number is None or not np.isfinite(number):
            raise UserError(f"{kind}: the metric {name} must be a finite number, got {value!r:.100}")
        metrics[name] = number
    rows = _to_integers(f"{kind}: rows", result.rows, num_images)
    predictions = None
    if result.predictions is not None:
        if not num_classes:
            raise UserError(f"{kind}: predictions must be None, because the dataset has no classes")
        predictions = _to_integers(f"{kind}: predictions", result.predictions, num_classes)
    columns = {name: _to_column(f"{kind}: the column {name}", column) for name, column in result.columns.items()}
    for name, column in (*columns.items(), ("predictions", predictions)):
        if column is not None and len(column) != len(rows):
            raise UserError(f"{kind}: {name} has {len(column)} values for {len(rows)} rows")
    examples = np.asarray(result.examples)
    if examples.dtype != np.uint8 or examples.ndim != 3 or examples.shape[2] != 3 or not examples.size:
        raise UserError(
            f"{kind}: the examples must be an image, uint8 (H, W, 3), got {examples.dtype} of shape {examples.shape}"
        )
    return replace(result, metrics=metrics, rows=rows, columns=columns, predictions=predictions, examples=examples)


def _to_number(value: Any) -> int | float | None:
    """Convert a number, which may be a NumPy or torch scalar, to a Python number. Return None for any other value."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _to_column(what: str, values: Any) -> np.ndarray:
    """Return `values` as an array that `rr.data.arrow.to_arrow` accepts; raise UserError if that is impossible."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths; a tensor on a GPU
        raise UserError(f"{what} cannot be converted to an array ({error}): return a NumPy array") from error
    is_numeric = array.dtype.kind in "biuf" and array.dtype.itemsize <= 8 and array.ndim in (1, 2)
    is_text = array.dtype.kind == "U" and array.ndim == 1
    is_binary = array.dtype == object and array.ndim == 1 and all(isinstance(value, bytes) for value in array)
    if not (is_numeric or is_text or is_binary):
        raise UserError(
            f"{what} must contain numbers of at most 64 bits or booleans, of shape (R,) or (R, K); text (R,); or bytes "
            f"in an object array (R,), got {array.dtype} of shape {array.shape}"
        )
    return array


def _to_integers(what: str, values: Any, stop: int) -> np.ndarray:
    """Return `values` as an array (R,); raise UserError unless they are integers from 0 to `stop` - 1."""
    array = np.asarray(values)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{what} must be an array of integers (R,), got {array.dtype} of shape {array.shape}")
    if array.size and not (array.min() >= 0 and array.max() < stop):
        raise UserError(f"{what} must be between 0 and {stop - 1}, got {array.min()} to {array.max()}")
    return array
