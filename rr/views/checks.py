"""Checks shared by the CPU and the batched path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr.views.draw import ViewParameters


def check_images(images: Any, dtype: Any) -> tuple[int, int]:
    """(M, S) of an array or tensor of square RGB images (M, S, S, 3) of the given dtype; ValueError otherwise."""
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[1] < 1:
        raise ValueError(f"images must be square and of shape (M, S, S, 3), got shape {shape}")
    if images.dtype != dtype:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return shape[0], shape[1]


def check_fit(parameters: ViewParameters, count: int, side: int) -> None:
    """ValueError unless the parameters are for `count` images of this side."""
    if (parameters.count, parameters.side) != (count, side):
        raise ValueError(
            f"parameters are for {parameters.count} images of side {parameters.side}, images are {count} of side {side}"
        )


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(gain, offset), float32 (3,) each: (x - mean) / std = gain * x + offset. ValueError for impossible values."""
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    for name, values in (("mean", means), ("std", stds)):
        if values.shape != (3,) or not np.isfinite(values).all():
            raise ValueError(f"{name} must be three finite numbers, got {values.tolist()}")
    if (stds <= 0).any():
        raise ValueError(f"std must be positive, got {stds.tolist()}")
    return (1 / stds).astype(np.float32), (-means / stds).astype(np.float32)
