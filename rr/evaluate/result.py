"""What a protocol gives back."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Found:
    """The result of one protocol on a target.

    Attributes:
        metrics: flat and with stable keys, for `metrics.json`; shares are in [0, 1].
        rows: positions of the test pictures that the table describes, int64 (R,).
        columns: further columns of the table, each with R values.
        guesses: the class found for each row, int64 (R,); None where none is.
        examples: uint8 (H, W, 3), a picture of what was found.
    """

    metrics: dict[str, float]
    rows: np.ndarray
    columns: dict[str, Any]
    examples: np.ndarray
    guesses: np.ndarray | None = None
