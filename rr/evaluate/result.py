"""The result that every protocol returns."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ProtocolResult:
    """Result of one protocol on a target dataset.

    Attributes:
        metrics: metrics by name, for `metrics.json`. Their names are part of the file format. Accuracies and
            rates are in [0, 1].
        rows: for each row of the table, the position of its image in the test split, int64 (R,).
        columns: additional table columns by name, (R,), or (R, K) for a column of lists.
        examples: an image that illustrates the result, uint8 (H, W, 3).
        predictions: predicted class of the image in each row, int64 (R,), or None if the protocol predicts no classes.
    """

    metrics: dict[str, float]
    rows: np.ndarray
    columns: dict[str, np.ndarray]
    examples: np.ndarray
    predictions: np.ndarray | None = None
