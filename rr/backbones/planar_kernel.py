"""Numba kernels of a Conv-4 block with few channels: convolution, batch norm, ReLU and 2x2 average pooling, per image.

Names: images B, input channels C, output channels F (an even number), sides H and W, pooled sides h = H // 2 and
w = W // 2, tiles T of ``TILE`` images; 9 is the taps of a 3x3 convolution, row by row. Values are float32, sums over
images float64. Arrays between blocks are channels last.

Within an image, arrays are *planes*: one row of memory per channel, in which image row y starts at ``y * (W + 1)``. In
padded planes (Q positions) a row of zeros comes before and after, and the one spare column is the zero to the right of
a row as well as to the left of the next. So the convolution of a whole plane is one long loop over P = H (W + 1)
positions with nine fixed offsets, which vectorises at any side. Position W of each row of a result is no pixel.

Libraries turn a convolution into products of matrices, which wants many channels. With 3 input channels these loops
are about four times as fast as oneDNN forwards and twice by the weight; with 8, twice forwards and on a par backwards.

Kernels work on tiles ``start`` to ``stop`` without Python's lock, so several can run at once. Each tile has its own row
of partial sums, so results are the same bits for any number of threads.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray

TILE = 8

# Unsigned positions, because numba tests signed ones for negative values, which hinders vectors; a slice per row would
# cost more than the row. Literals are signed, hence the named ones.
U = np.uintp
ONE, TWO = U(1), U(2)

# Reassociation lets LLVM use vectors for sums; the order is fixed once compiled.
_fast: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}


@njit(**_fast)
def convolve_and_sum(
    x_BHWC: Array, weight_FC9: Array, conv_BFP: Array, partial_2TF: Array, start: int, stop: int
) -> None:
    """Convolution into ``conv``, and sums and sums of squares of its pixels (float64) by channel and tile."""
    B, H, W, C = x_BHWC.shape
    padded_CQ = _padded(C, H, W)
    partial_2TF[:, start:stop] = 0
    for n in range(start * TILE, min(stop * TILE, B)):
        _to_planes(x_BHWC, n, padded_CQ)
        conv_FP = conv_BFP[n]
        _convolve(padded_CQ, weight_FC9, W + 1, conv_FP)
        for o in range(len(conv_FP)):
            for y in range(H):
                conv_FP[o, y * (W + 1) + W] = 0
            total, squares = 0.0, 0.0
            for p in range(conv_FP.shape[1]):
                value = np.float64(conv_FP[o, p])
                total += value
                squares += value * value
            partial_2TF[0, n // TILE, o] += total
            partial_2TF[1, n // TILE, o] += squares


@njit(**_fast)
def normalise_and_pool(conv_BFP: Array, W: int, norm_3F: Array, out_BhwF: Array, start: int, stop: int) -> None:
    """``out`` = mean over 2x2 of ``max((conv - mean) * scale + bias, 0)``; ``norm``: mean, scale, bias (float32)."""
    B, h, w, F = out_BhwF.shape
    row_w = np.empty(w, np.float32)
    for n in range(start * TILE, min(stop * TILE, B)):
        conv_FP = conv_BFP[n]
        for o in range(F):
            mean, scale, bias = norm_3F[0, o], norm_3F[1, o], norm_3F[2, o]
            for y in range(h):
                upper, lower = U(2 * y * (W + 1)), U((2 * y + 1) * (W + 1))
                for x in range(U(w)):
                    p, q = upper + TWO * x, lower + TWO * x
                    a = _relu((conv_FP[o, p] - mean) * scale + bias)
                    b = _relu((conv_FP[o, p + ONE] - mean) * scale + bias)
                    c = _relu((conv_FP[o, q] - mean) * scale + bias)
                    d = _relu((conv_FP[o, q + ONE] - mean) * scale + bias)
                    row_w[x] = np.float32(0.25) * ((a + b) + (c + d))
                for x in range(U(w)):
                    out_BhwF[n, y, x, o] = row_w[x]


@njit(**_fast)
def sum_gradients(
    conv_BFP: Array, W: int, norm_3F: Array, grad_BhwF: Array, partial_2TF: Array, start: int, stop: int
) -> None:
    """Sums over pixels of the gradient g before ReLU, and of ``g * (conv - mean)``, by channel and tile (float64)."""
    B, h, w, F = grad_BhwF.shape
    row_w = np.empty(w, np.float32)
    zero = np.float32(0)
    partial_2TF[:, start:stop] = 0
    for n in range(start * TILE, min(stop * TILE, B)):
        conv_FP = conv_BFP[n]
        for o in range(F):
            mean, scale, bias = norm_3F[0, o], norm_3F[1, o], norm_3F[2, o]
            total, cross = 0.0, 0.0
            for y in range(h):
                for x in range(U(w)):
                    row_w[x] = np.float32(0.25) * grad_BhwF[n, y, x, o]
                upper, lower = U(2 * y * (W + 1)), U((2 * y + 1) * (W + 1))
                row_total, row_cross = zero, zero
                for x in range(U(w)):
                    p, q = upper + TWO * x, lower + TWO * x
                    a, b = conv_FP[o, p] - mean, conv_FP[o, p + ONE] - mean
                    c, d = conv_FP[o, q] - mean, conv_FP[o, q + ONE] - mean
                    g = row_w[x]
                    g_a = g if a * scale + bias > zero else zero
                    g_b = g if b * scale + bias > zero else zero
                    g_c = g if c * scale + bias > zero else zero
                    g_d = g if d * scale + bias > zero else zero
                    row_total += (g_a + g_b) + (g_c + g_d)
                    row_cross += (g_a * a + g_b * b) + (g_c * c + g_d * d)
                total += float(row_total)
                cross += float(row_cross)
            partial_2TF[0, n // TILE, o] += total
            partial_2TF[1, n // TILE, o] += cross


@njit(**_fast)
def backward(
    x_BHWC: Array,
    flipped_CF9: Array,
    conv_BFP: Array,
    norm_3F: Array,
    parts_2F: Array,
    grad_BhwF: Array,
    grad_x_BHWC: Array,
    partial_TFC9: Array,
    start: int,
    stop: int,
) -> None:
    """Gradients by the weight (partial sums by tile, float64) and by x, unless ``grad_x`` is empty.

    The gradient by the convolution, ``scale * g - parts[0] - parts[1] * (conv - mean)``, is made for one image at a
    time. ``flipped`` is the weight with its channels exchanged, their number made even, and its taps reversed.
    """
    B, H, W, C = x_BHWC.shape
    F = grad_BhwF.shape[3]
    padded_CQ = _padded(C, H, W)
    slope_FQ = _padded(F, H, W)
    grad_x_CP = np.empty((len(flipped_CF9), H * (W + 1)), np.float32)
    partial_TFC9[start:stop] = 0
    for n in range(start * TILE, min(stop * TILE, B)):
        _to_planes(x_BHWC, n, padded_CQ)
        _slopes(conv_BFP[n], norm_3F, parts_2F, grad_BhwF[n], H, W, slope_FQ)
        _add_weight_gradient(padded_CQ, slope_FQ, W + 1, H * (W + 1), partial_TFC9[n // TILE])
        if grad_x_BHWC.size:
            _convolve(slope_FQ, flipped_CF9, W + 1, grad_x_CP)
            for y in range(H):
                first = U(y * (W + 1))
                for i in range(C):
                    for x in range(U(W)):
                        grad_x_BHWC[n, y, x, i] = grad_x_CP[i, first + x]


@njit(**_fast)
def _relu(value: np.float32) -> np.float32:
    """Unlike ``max``, keeps NaN, so that a network that has diverged shows it."""
    return np.float32(0) if value < np.float32(0) else value


@njit(**_fast)
def _padded(channels: int, H: int, W: int) -> Array:
    return np.zeros((channels, (H + 2) * (W + 1) + 2), np.float32)


@njit(**_fast)
def _to_planes(x_BHWC: Array, n: int, padded_CQ: Array) -> None:
    _, H, W, C = x_BHWC.shape
    for y in range(H):
        first = U((y + 1) * (W + 1) + 1)
        for i in range(C):
            for x in range(U(W)):
                padded_CQ[i, first + x] = x_BHWC[n, y, x, i]


@njit(**_fast)
def _convolve(padded_CQ: Array, weight_FC9: Array, pitch: int, out_FP: Array) -> None:
    """Two output channels at a time, so that their 18 weights stay in registers."""
    step = U(pitch)
    for o in range(0, len(weight_FC9), 2):
        out_FP[o : o + 2] = 0
        for i in range(len(padded_CQ)):
            v0, v1, v2, v3, v4, v5, v6, v7, v8 = _nine(weight_FC9, o, i)
            w0, w1, w2, w3, w4, w5, w6, w7, w8 = _nine(weight_FC9, o + 1, i)
            for p in range(U(out_FP.shape[1])):
                q = p + step
                r = q + step
                a, b, c = padded_CQ[i, p], padded_CQ[i, p + ONE], padded_CQ[i, p + TWO]
                d, e, f = padded_CQ[i, q], padded_CQ[i, q + ONE], padded_CQ[i, q + TWO]
                g, h, k = padded_CQ[i, r], padded_CQ[i, r + ONE], padded_CQ[i, r + TWO]
                out_FP[o, p] += (v0 * a + v1 * b + v2 * c) + (v3 * d + v4 * e + v5 * f) + (v6 * g + v7 * h + v8 * k)
                out_FP[o + 1, p] += (w0 * a + w1 * b + w2 * c) + (w3 * d + w4 * e + w5 * f) + (w6 * g + w7 * h + w8 * k)


@njit(**_fast)
def _nine(weight_FC9: Array, o: int, i: int) -> tuple[float, ...]:
    w = weight_FC9
    return (
        w[o, i, 0], w[o, i, 1], w[o, i, 2], w[o, i, 3], w[o, i, 4], w[o, i, 5], w[o, i, 6], w[o, i, 7], w[o, i, 8]
    )  # fmt: skip


@njit(**_fast)
def _add_weight_gradient(padded_CQ: Array, slope_FQ: Array, pitch: int, P: int, out_FC9: Array) -> None:
    """Sum over pixels of slope times patch. The slope is zero at the spare position of each row."""
    zero = np.float32(0)
    step = U(pitch)
    centre = step + ONE
    for o in range(0, len(slope_FQ), 2):
        for i in range(len(padded_CQ)):
            v0, v1, v2, v3, v4, v5, v6, v7, v8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
            w0, w1, w2, w3, w4, w5, w6, w7, w8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
            for p in range(U(P)):
                q = p + step
                r = q + step
                s, t = slope_FQ[o, p + centre], slope_FQ[o + 1, p + centre]
                a, b, c = padded_CQ[i, p], padded_CQ[i, p + ONE], padded_CQ[i, p + TWO]
                d, e, f = padded_CQ[i, q], padded_CQ[i, q + ONE], padded_CQ[i, q + TWO]
                g, h, k = padded_CQ[i, r], padded_CQ[i, r + ONE], padded_CQ[i, r + TWO]
                v0 += s * a
                v1 += s * b
                v2 += s * c
                v3 += s * d
                v4 += s * e
                v5 += s * f
                v6 += s * g
                v7 += s * h
                v8 += s * k
                w0 += t * a
                w1 += t * b
                w2 += t * c
                w3 += t * d
                w4 += t * e
                w5 += t * f
                w6 += t * g
                w7 += t * h
                w8 += t * k
            _add_nine(out_FC9, o, i, (v0, v1, v2, v3, v4, v5, v6, v7, v8))
            _add_nine(out_FC9, o + 1, i, (w0, w1, w2, w3, w4, w5, w6, w7, w8))


@njit(**_fast)
def _add_nine(out_FC9: Array, o: int, i: int, values: tuple[float, ...]) -> None:
    for k in range(9):
        out_FC9[o, i, k] += values[k]


@njit(**_fast)
def _slopes(conv_FP: Array, norm_3F: Array, parts_2F: Array, grad_hwF: Array, H: int, W: int, slope_FQ: Array) -> None:
    """Gradient by the convolution of one image, as padded planes; where an odd side leaves no window, g is zero."""
    h, w, F = grad_hwF.shape
    row_w = np.empty(w, np.float32)
    zero = np.float32(0)
    for o in range(F):
        mean, scale, bias = norm_3F[0, o], norm_3F[1, o], norm_3F[2, o]
        mean_part, var_part = parts_2F[0, o], parts_2F[1, o]
        for y in range(H):
            if y == 2 * h:
                row_w[:] = 0
            elif y % 2 == 0:
                for x in range(U(w)):
                    row_w[x] = np.float32(0.25) * scale * grad_hwF[y // 2, x, o]
            source, target = U(y * (W + 1)), U((y + 1) * (W + 1) + 1)
            for x in range(U(w)):
                p, q = source + TWO * x, target + TWO * x
                a, b = conv_FP[o, p] - mean, conv_FP[o, p + ONE] - mean
                g = row_w[x]
                slope_FQ[o, q] = (g if a * scale + bias > zero else zero) - mean_part - var_part * a
                slope_FQ[o, q + ONE] = (g if b * scale + bias > zero else zero) - mean_part - var_part * b
            if W % 2:
                slope_FQ[o, target + U(W - 1)] = -mean_part - var_part * (conv_FP[o, source + U(W - 1)] - mean)
