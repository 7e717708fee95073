"""Numba kernels for a Conv-4 block with few channels: convolution, batch norm, ReLU and 2×2 average pooling.

Notation: images B, input channels C, output channels F (an even number), sides H and W, pooled sides h = H // 2 and
w = W // 2, tiles T of `TILE` images. The 9 taps of a 3×3 convolution are in row-major order. Values are float32, and
sums over images are float64.

Arrays are planar: the memory of a channel is contiguous. In the convolution output, image row y starts at
`y * (W + 1)`. Padded planes (Q positions) have a row of zeros before and after the image. The additional column
provides the zero to the right of a row and to the left of the next one. Convolving a plane is therefore one long loop
over P = H (W + 1) positions with nine constant offsets. This loop can be vectorized for any side. In each row of a
result, position W is not a pixel.

Libraries compute a convolution as a matrix product, which is efficient for many channels. With 3 input channels, these
loops are about four times as fast as oneDNN in the forward pass, and twice as fast for the weight gradient. With 8
input channels, they are twice as fast in the forward pass and equally fast in the backward pass.

Each kernel processes the tiles `start_tile` to `stop_tile - 1` without holding the GIL, so several threads can run it
at once. Each tile has its own row of partial sums. Results are therefore bit-identical for any number of threads.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray

TILE = 8

# Positions are unsigned, because numba tests signed ones for negative values, which prevents vectorization. Slicing a
# row would take longer than processing it. Integer literals are signed, so unsigned constants need names.
U = np.uintp
ONE, TWO = U(1), U(2)

# Reassociation allows LLVM to vectorize sums. The order of the terms is fixed in the compiled code.
_fast: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
# A function that is not inlined is compiled twice: on its own, and as part of its caller. The two versions may
# vectorize sums differently, and which one is called depends on whether this process compiled the caller or loaded it
# from the cache.
_inlined = _fast | {"forceinline": True}


@njit(**_fast)
def convolve_and_sum(
    x_BCHW: Array, weight_FC9: Array, conv_BFP: Array, partial_sums_2TF: Array, start_tile: int, stop_tile: int
) -> None:
    """Compute the convolution, and the sum and sum of squares (float64) of its output for each channel and tile."""
    B, C, H, W = x_BCHW.shape
    padded_CQ = _zero_planes(C, H, W)
    partial_sums_2TF[:, start_tile:stop_tile] = 0
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        _copy_to_planes(x_BCHW, n, padded_CQ)
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
            partial_sums_2TF[0, n // TILE, o] += total
            partial_sums_2TF[1, n // TILE, o] += squares


@njit(**_fast)
def normalize_relu_pool(
    conv_BFP: Array,
    W: int,
    norm_3F: Array,
    out_BFhw: Array,
    active_BFhw: Array,
    centered_BFhw: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute `out`, the mean over 2×2 windows of `max((conv - mean) * scale + bias, 0)`.

    `norm` holds mean, scale and bias (float32). For the backward pass, also count the values in each window for which
    ReLU is active, and sum their `conv - mean`.
    """
    B, F, h, w = out_BFhw.shape
    zero, one_count, zero_count = np.float32(0), np.uint8(1), np.uint8(0)
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        for o in range(F):
            mean, scale, bias = norm_3F[0, o], norm_3F[1, o], norm_3F[2, o]
            for y in range(h):
                upper, lower = U(2 * y * (W + 1)), U((2 * y + 1) * (W + 1))
                for x in range(U(w)):
                    # a to d are the four values of a window minus the mean; s, t, u, v are the same after batch norm.
                    p, q = upper + TWO * x, lower + TWO * x
                    a, b = conv_BFP[n, o, p] - mean, conv_BFP[n, o, p + ONE] - mean
                    c, d = conv_BFP[n, o, q] - mean, conv_BFP[n, o, q + ONE] - mean
                    s, t, u, v = a * scale + bias, b * scale + bias, c * scale + bias, d * scale + bias
                    out_BFhw[n, o, y, x] = np.float32(0.25) * ((_relu(s) + _relu(t)) + (_relu(u) + _relu(v)))
                    active_BFhw[n, o, y, x] = (
                        (one_count if s > zero else zero_count) + (one_count if t > zero else zero_count)
                        + (one_count if u > zero else zero_count) + (one_count if v > zero else zero_count)
                    )  # fmt: skip
                    centered_BFhw[n, o, y, x] = ((a if s > zero else zero) + (b if t > zero else zero)) + (
                        (c if u > zero else zero) + (d if v > zero else zero)
                    )


@njit(**_fast)
def sum_bn_gradients(
    grad_BFhw: Array,
    active_BFhw: Array,
    centered_BFhw: Array,
    partial_sums_2TF: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute the sums (float64) of g and of `g * (conv - mean)` for each channel and tile.

    g is the gradient with respect to the ReLU input.
    """
    B, F, h, w = grad_BFhw.shape
    shape = (B, F, h * w)
    grad_BFp, active_BFp = grad_BFhw.reshape(shape), active_BFhw.reshape(shape)
    centered_BFp = centered_BFhw.reshape(shape)
    partial_sums_2TF[:, start_tile:stop_tile] = 0
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        for o in range(F):
            total = cross = np.float32(0)
            for p in range(U(h * w)):
                total += grad_BFp[n, o, p] * np.float32(active_BFp[n, o, p])
                cross += grad_BFp[n, o, p] * centered_BFp[n, o, p]
            partial_sums_2TF[0, n // TILE, o] += 0.25 * total
            partial_sums_2TF[1, n // TILE, o] += 0.25 * cross


@njit(**_fast)
def weight_and_input_gradients(
    x_BCHW: Array,
    flipped_CF9: Array,
    conv_BFP: Array,
    norm_3F: Array,
    bn_terms_2F: Array,
    grad_BFhw: Array,
    grad_x_BCHW: Array,
    partial_sums_TFC9: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute the gradients of the weight (float64, one partial sum per tile) and of x (unless `grad_x` is empty).

    The gradient with respect to the convolution output is computed for one image at a time. `flipped` is the weight
    with input and output channels swapped, zero-padded to an even number of channels, and with its taps reversed.
    """
    B, C, H, W = x_BCHW.shape
    F = grad_BFhw.shape[1]
    padded_CQ = _zero_planes(C, H, W)
    grad_conv_FQ = _zero_planes(F, H, W)
    grad_x_CP = np.empty((len(flipped_CF9), H * (W + 1)), np.float32)
    partial_sums_TFC9[start_tile:stop_tile] = 0
    for n in range(start_tile * TILE, min(stop_tile * TILE, B)):
        _copy_to_planes(x_BCHW, n, padded_CQ)
        _conv_output_gradient(conv_BFP, norm_3F, bn_terms_2F, grad_BFhw, n, H, W, grad_conv_FQ)
        _add_weight_gradient(padded_CQ, grad_conv_FQ, W + 1, H * (W + 1), partial_sums_TFC9[n // TILE])
        if grad_x_BCHW.size:
            _convolve(grad_conv_FQ, flipped_CF9, W + 1, grad_x_CP)
            for i in range(C):
                for y in range(H):
                    first = U(y * (W + 1))
                    for x in range(U(W)):
                        grad_x_BCHW[n, i, y, x] = grad_x_CP[i, first + x]


@njit(**_inlined)
def _relu(value: np.float32) -> np.float32:
    """Apply ReLU. Unlike `max`, this keeps NaN, so a diverging network is detected."""
    return np.float32(0) if value < np.float32(0) else value


@njit(**_inlined)
def _zero_planes(channels: int, H: int, W: int) -> Array:
    """Return padded planes filled with zeros."""
    return np.zeros((channels, (H + 2) * (W + 1) + 2), np.float32)


@njit(**_inlined)
def _copy_to_planes(x_BCHW: Array, n: int, padded_CQ: Array) -> None:
    """Copy image n into padded planes."""
    _, C, H, W = x_BCHW.shape
    for i in range(C):
        for y in range(H):
            first = U((y + 1) * (W + 1) + 1)
            for x in range(U(W)):
                padded_CQ[i, first + x] = x_BCHW[n, i, y, x]


@njit(**_inlined)
def _convolve(padded_CQ: Array, weight_FC9: Array, row_stride: int, out_FP: Array) -> None:
    """Compute the convolution of padded planes for two output channels at a time, whose 18 weights fit in registers."""
    # v0 to v8 and w0 to w8 are the weights of two output channels; a to k are the 3×3 patch around an output position.
    step = U(row_stride)
    for o in range(0, len(weight_FC9), 2):
        out_FP[o : o + 2] = 0
        for i in range(len(padded_CQ)):
            v0, v1, v2, v3, v4, v5, v6, v7, v8 = _load_taps(weight_FC9, o, i)
            w0, w1, w2, w3, w4, w5, w6, w7, w8 = _load_taps(weight_FC9, o + 1, i)
            for p in range(U(out_FP.shape[1])):
                q = p + step
                r = q + step
                a, b, c = padded_CQ[i, p], padded_CQ[i, p + ONE], padded_CQ[i, p + TWO]
                d, e, f = padded_CQ[i, q], padded_CQ[i, q + ONE], padded_CQ[i, q + TWO]
                g, h, k = padded_CQ[i, r], padded_CQ[i, r + ONE], padded_CQ[i, r + TWO]
                out_FP[o, p] += (v0 * a + v1 * b + v2 * c) + (v3 * d + v4 * e + v5 * f) + (v6 * g + v7 * h + v8 * k)
                out_FP[o + 1, p] += (w0 * a + w1 * b + w2 * c) + (w3 * d + w4 * e + w5 * f) + (w6 * g + w7 * h + w8 * k)


@njit(**_inlined)
def _load_taps(weight_FC9: Array, o: int, i: int) -> tuple[float, ...]:
    w = weight_FC9
    return (
        w[o, i, 0], w[o, i, 1], w[o, i, 2], w[o, i, 3], w[o, i, 4], w[o, i, 5], w[o, i, 6], w[o, i, 7], w[o, i, 8]
    )  # fmt: skip


@njit(**_inlined)
def _add_weight_gradient(padded_CQ: Array, grad_conv_FQ: Array, row_stride: int, P: int, out_FC9: Array) -> None:
    """Add the gradient of the weight to `out`: the sum over pixels of the output gradient times the 3×3 input patch.

    The output gradient is zero at the additional position in each row.
    """
    # s and t are the output gradients of two channels; a to k are the patch, as in `_convolve`.
    zero = np.float32(0)
    step = U(row_stride)
    center = step + ONE  # offset of the center of a patch
    for o in range(0, len(grad_conv_FQ), 2):
        for i in range(len(padded_CQ)):
            v0, v1, v2, v3, v4, v5, v6, v7, v8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
            w0, w1, w2, w3, w4, w5, w6, w7, w8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
            for p in range(U(P)):
                q = p + step
                r = q + step
                s, t = grad_conv_FQ[o, p + center], grad_conv_FQ[o + 1, p + center]
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
            _add_taps(out_FC9, o, i, (v0, v1, v2, v3, v4, v5, v6, v7, v8))
            _add_taps(out_FC9, o + 1, i, (w0, w1, w2, w3, w4, w5, w6, w7, w8))


@njit(**_inlined)
def _add_taps(out_FC9: Array, o: int, i: int, values: tuple[float, ...]) -> None:
    for k in range(9):
        out_FC9[o, i, k] += values[k]


@njit(**_inlined)
def _conv_output_gradient(
    conv_BFP: Array, norm_3F: Array, bn_terms_2F: Array, grad_BFhw: Array, n: int, H: int, W: int, grad_conv_FQ: Array
) -> None:
    """Compute the gradient with respect to the convolution output of image n, as padded planes.

    With g as in `sum_bn_gradients`, it is `scale * g - bn_terms[0] - bn_terms[1] * (conv - mean)` (Ioffe and Szegedy
    2015). If a side is odd, no pooling window covers the last row or column, so g is zero there.
    """
    B, F, h, w = grad_BFhw.shape
    grad_BFp = grad_BFhw.reshape((B, F, h * w))
    # Each gradient is stored twice, so that one fast loop covers all windows.
    grad_per_column = np.empty(2 * h * w, np.float32)
    zero = np.float32(0)
    for o in range(F):
        mean, scale, bias = norm_3F[0, o], norm_3F[1, o], norm_3F[2, o]
        mean_term, var_term = bn_terms_2F[0, o], bn_terms_2F[1, o]
        for p in range(U(h * w)):
            g = np.float32(0.25) * scale * grad_BFp[n, o, p]
            grad_per_column[TWO * p], grad_per_column[TWO * p + ONE] = g, g
        for y in range(H):
            source, target = U(y * (W + 1)), U((y + 1) * (W + 1) + 1)
            num_covered = 2 * w if y < 2 * h else 0
            first_column = U(y // 2 * 2 * w)
            for x in range(U(num_covered)):
                centered = conv_BFP[n, o, source + x] - mean
                g = grad_per_column[first_column + x] if centered * scale + bias > zero else zero
                grad_conv_FQ[o, target + x] = g - mean_term - var_term * centered
            for x in range(U(num_covered), U(W)):
                grad_conv_FQ[o, target + x] = -mean_term - var_term * (conv_BFP[n, o, source + x] - mean)
