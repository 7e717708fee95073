"""Numba kernels for batch norm, ReLU and average pooling, for many channels and channels-last activations.

Notation: images B, sides H and W, channels C, pooled sides h and w, tiles T of `TILE` images. A pooling window has
`window_rows` × `window_columns` pixels. If a side is not a multiple of the window size, the remaining pixels affect
only the statistics, as in torch. `norm_3C` holds mean, scale and bias. Values are float32, and sums over images are
float64.

Each kernel processes the tiles `start_tile` to `stop_tile - 1` without holding the GIL, so several threads can run it
at once. Each tile has its own row of partial sums. Results are therefore bit-identical for any number of threads.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray

TILE = 8

# Reassociation is not needed, because the inner loops run over channels, which are independent of each other.
_options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


@njit(**_options)
def sum_values_and_squares(conv_BHWC: Array, partial_sums_2TC: Array, start_tile: int, stop_tile: int) -> None:
    """Compute the sum and the sum of squares for each channel and tile."""
    B, H, W, C = conv_BHWC.shape
    partial_sums_2TC[:, start_tile:stop_tile] = 0
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        tile = n // TILE
        for y in range(H):
            for x in range(W):
                for c in range(C):
                    value = np.float64(conv_BHWC[n, y, x, c])
                    partial_sums_2TC[0, tile, c] += value
                    partial_sums_2TC[1, tile, c] += value * value


@njit(**_options)
def normalize_relu_pool(
    conv_BHWC: Array,
    norm_3C: Array,
    window_rows: int,
    window_columns: int,
    out_BhwC: Array,
    active_BhwC: Array,
    centered_BhwC: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute `out`, the mean over each window of `max((conv - mean) * scale + bias, 0)`.

    For the backward pass, also count the values in each window for which ReLU is active, and sum their `conv - mean`.
    """
    B, h, w, C = out_BhwC.shape
    inverse_area = np.float32(1 / (window_rows * window_columns))
    zero, one = np.float32(0), np.float32(1)
    total_C, active_C, centered_C = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        for y in range(h):
            for x in range(w):
                total_C[:] = active_C[:] = centered_C[:] = 0
                for i in range(y * window_rows, (y + 1) * window_rows):
                    for j in range(x * window_columns, (x + 1) * window_columns):
                        for c in range(C):
                            centered = conv_BHWC[n, i, j, c] - norm_3C[0, c]
                            value = centered * norm_3C[1, c] + norm_3C[2, c]
                            total_C[c] += zero if value < zero else value  # unlike max, this keeps NaN
                            active_C[c] += one if value > zero else zero
                            centered_C[c] += centered if value > zero else zero
                for c in range(C):
                    out_BhwC[n, y, x, c] = inverse_area * total_C[c]
                    active_BhwC[n, y, x, c] = active_C[c]
                    centered_BhwC[n, y, x, c] = centered_C[c]


@njit(**_options)
def sum_bn_gradients(
    grad_BhwC: Array,
    active_BhwC: Array,
    centered_BhwC: Array,
    inverse_area: float,
    partial_sums_2TC: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute the sums of g and of `g * (conv - mean)` for each channel and tile.

    g is the gradient with respect to the ReLU input, and `inverse_area` is one divided by the area of a window.
    """
    B, h, w, C = grad_BhwC.shape
    partial_sums_2TC[:, start_tile:stop_tile] = 0
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        for y in range(h):
            for x in range(w):
                for c in range(C):
                    g = inverse_area * grad_BhwC[n, y, x, c]
                    partial_sums_2TC[0, n // TILE, c] += g * active_BhwC[n, y, x, c]
                    partial_sums_2TC[1, n // TILE, c] += g * centered_BhwC[n, y, x, c]


@njit(**_options)
def conv_output_gradient(
    conv_BHWC: Array,
    norm_3C: Array,
    bn_terms_2C: Array,
    window_rows: int,
    window_columns: int,
    grad_BhwC: Array,
    grad_conv_BHWC: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute the gradient with respect to the convolution output.

    With g as in `sum_bn_gradients`, it is `scale * g - bn_terms[0] - bn_terms[1] * (conv - mean)` (Ioffe and Szegedy
    2015).
    """
    B, h, w, C = grad_BhwC.shape
    _, H, W, _ = conv_BHWC.shape
    grad_scale_C = norm_3C[1] / np.float32(window_rows * window_columns)
    zero_C = np.zeros(C, np.float32)
    zero = np.float32(0)
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        for y in range(H):
            for x in range(W):
                in_window = y < h * window_rows and x < w * window_columns
                grad_C = grad_BhwC[n, y // window_rows, x // window_columns] if in_window else zero_C
                for c in range(C):
                    centered = conv_BHWC[n, y, x, c] - norm_3C[0, c]
                    g = grad_scale_C[c] * grad_C[c] if centered * norm_3C[1, c] + norm_3C[2, c] > zero else zero
                    grad_conv_BHWC[n, y, x, c] = g - bn_terms_2C[0, c] - bn_terms_2C[1, c] * centered
