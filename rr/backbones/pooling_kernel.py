"""Numba kernels of batch norm, ReLU and average pooling after a convolution with many channels, channels last.

Names: images B, sides H and W, channels C, pooled sides h and w, tiles T of ``TILE`` images. A pooling window has
``rows x columns`` pixels; pixels that no whole window covers (odd sides) count in the statistics alone, as in torch.
``norm_3C`` is mean, scale and bias; values are float32, sums over images float64.

Kernels work on tiles ``start`` to ``stop`` without Python's lock, so several can run at once. Each tile has its own row
of partial sums, so results are the same bits for any number of threads.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray

TILE = 8

# No reassociation: the inner loops run over channels, which are independent of each other.
_options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


@njit(**_options)
def sum_values(conv_BHWC: Array, partial_2TC: Array, start: int, stop: int) -> None:
    """Sums and sums of squares by channel and tile."""
    B, H, W, C = conv_BHWC.shape
    partial_2TC[:, start:stop] = 0
    for n in range(start * TILE, min(stop * TILE, B)):
        tile = n // TILE
        for y in range(H):
            for x in range(W):
                for c in range(C):
                    value = np.float64(conv_BHWC[n, y, x, c])
                    partial_2TC[0, tile, c] += value
                    partial_2TC[1, tile, c] += value * value


@njit(**_options)
def normalise_and_pool(
    conv_BHWC: Array, norm_3C: Array, rows: int, columns: int, out_BhwC: Array, start: int, stop: int
) -> None:
    """``out`` = mean over each window of ``max((conv - mean) * scale + bias, 0)``."""
    B, h, w, C = out_BhwC.shape
    factor = np.float32(1 / (rows * columns))
    total_C = np.empty(C, np.float32)
    for n in range(start * TILE, min(stop * TILE, B)):
        for y in range(h):
            for x in range(w):
                total_C[:] = 0
                for i in range(y * rows, (y + 1) * rows):
                    for j in range(x * columns, (x + 1) * columns):
                        for c in range(C):
                            value = (conv_BHWC[n, i, j, c] - norm_3C[0, c]) * norm_3C[1, c] + norm_3C[2, c]
                            total_C[c] += np.float32(0) if value < np.float32(0) else value  # unlike max, keeps NaN
                for c in range(C):
                    out_BhwC[n, y, x, c] = factor * total_C[c]


@njit(**_options)
def sum_gradients(
    conv_BHWC: Array,
    norm_3C: Array,
    rows: int,
    columns: int,
    grad_BhwC: Array,
    partial_2TC: Array,
    start: int,
    stop: int,
) -> None:
    """Sums over pixels of the gradient g before ReLU, and of ``g * (conv - mean)``, by channel and tile."""
    B, h, w, C = grad_BhwC.shape
    factor = np.float32(1 / (rows * columns))
    zero = np.float32(0)
    active_C, centred_C = np.empty(C, np.float32), np.empty(C, np.float32)
    partial_2TC[:, start:stop] = 0
    for n in range(start * TILE, min(stop * TILE, B)):
        tile = n // TILE
        for y in range(h):
            for x in range(w):
                active_C[:] = 0
                centred_C[:] = 0
                for i in range(y * rows, (y + 1) * rows):
                    for j in range(x * columns, (x + 1) * columns):
                        for c in range(C):
                            centred = conv_BHWC[n, i, j, c] - norm_3C[0, c]
                            positive = centred * norm_3C[1, c] + norm_3C[2, c] > zero
                            active_C[c] += np.float32(1) if positive else zero
                            centred_C[c] += centred if positive else zero
                for c in range(C):
                    g = np.float64(factor * grad_BhwC[n, y, x, c])
                    partial_2TC[0, tile, c] += g * active_C[c]
                    partial_2TC[1, tile, c] += g * centred_C[c]


@njit(**_options)
def backward(
    conv_BHWC: Array,
    norm_3C: Array,
    parts_2C: Array,
    rows: int,
    columns: int,
    grad_BhwC: Array,
    out_BHWC: Array,
    start: int,
    stop: int,
) -> None:
    """Gradient by the convolution: ``scale * g - parts[0] - parts[1] * (conv - mean)``."""
    B, h, w, C = grad_BhwC.shape
    _, H, W, _ = conv_BHWC.shape
    factor_C = norm_3C[1] / np.float32(rows * columns)
    none_C = np.zeros(C, np.float32)
    zero = np.float32(0)
    for n in range(start * TILE, min(stop * TILE, B)):
        for y in range(H):
            for x in range(W):
                covered = y < h * rows and x < w * columns
                grad_C = grad_BhwC[n, y // rows, x // columns] if covered else none_C
                for c in range(C):
                    centred = conv_BHWC[n, y, x, c] - norm_3C[0, c]
                    g = factor_C[c] * grad_C[c] if centred * norm_3C[1, c] + norm_3C[2, c] > zero else zero
                    out_BHWC[n, y, x, c] = g - parts_2C[0, c] - parts_2C[1, c] * centred
