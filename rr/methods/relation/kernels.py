"""Numba kernels of the fused relation loss: sums over the partners of each row, never an array of P x hidden values.

Names: rows N = K M, hidden units H, pairs P, tiles T of ``TILE`` rows. A list in compressed form has ``offsets_N1``
(int64, N + 1) and ``partners_P`` (int64): the partners of row n are ``partners_P[offsets_N1[n] : offsets_N1[n + 1]]``.

Kernels work on tiles ``start`` to ``stop`` without Python's lock, so several can run at once. A row belongs to one tile
and each tile has its own row in the ``partial_TH`` sums, so results are the same bits for any number of threads. Values
are float32; sums over rows are float64.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray

TILE = 32

# Reassociation lets LLVM use vectors for the sums over hidden units; the order is fixed once compiled.
_options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_fast: dict[str, Any] = {**_options, "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**_options)
def partner_lists(K: int, M: int, positives_QM: Array, negatives_QM: Array) -> tuple[Array, ...]:
    """Which second rows each first row is paired with, and back.

    Returns offsets and rows of the forward list, offsets and rows of the reverse list, and for each entry of the
    reverse list its position in the forward list. In the forward list positives and negatives alternate (M > 1), or
    there are only positives (M = 1).
    """
    N = K * M
    per_view = 2 if M > 1 else 1
    forward_offsets = np.empty(N + 1, np.int64)
    counts = np.zeros(N + 1, np.int64)
    total = 0
    for n in range(N):
        forward_offsets[n] = total
        total += per_view * (K - 1 - n // M)
    forward_offsets[N] = total
    forward = np.empty(total, np.int64)
    position = 0
    for i in range(K):
        first_pair = i * (2 * K - i - 1) // 2
        for m in range(M):
            for j in range(i + 1, K):
                positive = j * M + positives_QM[first_pair + j - i - 1, m]
                forward[position] = positive
                counts[positive + 1] += 1
                position += 1
                if M > 1:
                    negative = j * M + negatives_QM[first_pair + j - i - 1, m]
                    forward[position] = negative
                    counts[negative + 1] += 1
                    position += 1
    reverse_offsets = np.cumsum(counts)
    cursor = reverse_offsets[:-1].copy()
    reverse = np.empty(total, np.int64)
    origin = np.empty(total, np.int64)
    for n in range(N):
        for k in range(forward_offsets[n], forward_offsets[n + 1]):
            place = cursor[forward[k]]
            reverse[place] = n
            origin[place] = k
            cursor[forward[k]] = place + 1
    return forward_offsets, forward, reverse_offsets, reverse, origin


@njit(**_fast)
def column_sums(rows_NH: Array, counts_N: Array, partial_TH: Array, start: int, stop: int) -> None:
    """``partial[tile] = sum of counts[n] rows[n]`` over the rows of a tile."""
    N, H = rows_NH.shape
    for tile in range(start, stop):
        for c in range(H):
            partial_TH[tile, c] = 0
        for n in range(tile * TILE, min((tile + 1) * TILE, N)):
            count = counts_N[n]
            for c in range(H):
                partial_TH[tile, c] += count * np.float64(rows_NH[n, c])


@njit(**_fast)
def subtract(rows_NH: Array, mean_H: Array, out_NH: Array, start: int, stop: int) -> None:
    """``out = rows - mean`` (float64 mean)."""
    N, H = rows_NH.shape
    for n in range(start * TILE, min(stop * TILE, N)):
        for c in range(H):
            out_NH[n, c] = np.float32(rows_NH[n, c] - mean_H[c])


@njit(**_fast)
def hidden_sums(
    own_NH: Array,
    other_NH: Array,
    offsets_N1: Array,
    partners_P: Array,
    out_NH: Array,
    partial_TH: Array,
    start: int,
    stop: int,
) -> None:
    """``out[n]`` = sum of the hidden rows ``own[n] + other[p]`` over the pairs of n; partial sums of ``own * out``.

    Summed over both sides of the pairs the partial sums give the sum of squared hidden values,
    ``sum_p (u + v)^2 = sum_p u (u + v) + sum_p v (u + v)``. Rows are centred before, so nothing large cancels.
    """
    N, H = own_NH.shape
    for tile in range(start, stop):
        for c in range(H):
            partial_TH[tile, c] = 0
        for n in range(tile * TILE, min((tile + 1) * TILE, N)):
            k = offsets_N1[n]
            end = offsets_N1[n + 1]
            count = np.float32(end - k)
            for c in range(H):
                out_NH[n, c] = count * own_NH[n, c]
            while k + 4 <= end:
                p0, p1, p2, p3 = partners_P[k], partners_P[k + 1], partners_P[k + 2], partners_P[k + 3]
                for c in range(H):
                    out_NH[n, c] += (other_NH[p0, c] + other_NH[p1, c]) + (other_NH[p2, c] + other_NH[p3, c])
                k += 4
            while k < end:
                p0 = partners_P[k]
                for c in range(H):
                    out_NH[n, c] += other_NH[p0, c]
                k += 1
            for c in range(H):
                partial_TH[tile, c] += np.float64(own_NH[n, c]) * np.float64(out_NH[n, c])


@njit(**_options)
def fold(
    rows_NH: Array,
    scale_H: Array,
    shift_H: Array,
    weight_H: Array,
    out_NH: Array,
    linear_N: Array,
    start: int,
    stop: int,
) -> None:
    """Batch norm folded into rows, ``out = rows * scale + shift``, and ``linear[n] = 0.01 weight . out[n]``."""
    N, H = rows_NH.shape
    for n in range(start * TILE, min(stop * TILE, N)):
        for c in range(H):
            out_NH[n, c] = rows_NH[n, c] * scale_H[c] + shift_H[c]
        linear_N[n] = np.float32(0.01 * _dot(weight_H, out_NH, n))


@njit(**_fast)
def _dot(weight_H: Array, rows_NH: Array, n: int) -> float:
    total = 0.0
    for c in range(weight_H.shape[0]):
        total += np.float64(weight_H[c]) * np.float64(rows_NH[n, c])
    return total


@njit(**_fast)
def pair_logits(
    first_NH: Array,
    second_NH: Array,
    first_N: Array,
    second_N: Array,
    weight_H: Array,
    offsets_N1: Array,
    partners_P: Array,
    logits_P: Array,
    start: int,
    stop: int,
) -> None:
    """``logits[k] = first[n] + second[p] + sum_c weight[c] max(first[n, c] + second[p, c], 0)`` for pair k = (n, p).

    LeakyReLU(x) is 0.01 x + 0.99 max(x, 0): the linear part is the sum of two row values (``fold``), and ``weight`` is
    0.99 times the output weight.
    """
    N, H = first_NH.shape
    zero = np.float32(0)
    for n in range(start * TILE, min(stop * TILE, N)):
        k = offsets_N1[n]
        end = offsets_N1[n + 1]
        own = first_N[n]
        while k + 4 <= end:
            p0, p1, p2, p3 = partners_P[k], partners_P[k + 1], partners_P[k + 2], partners_P[k + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for c in range(H):
                x = first_NH[n, c]
                w = weight_H[c]
                s0 += w * max(x + second_NH[p0, c], zero)
                s1 += w * max(x + second_NH[p1, c], zero)
                s2 += w * max(x + second_NH[p2, c], zero)
                s3 += w * max(x + second_NH[p3, c], zero)
            logits_P[k] = s0 + own + second_N[p0]
            logits_P[k + 1] = s1 + own + second_N[p1]
            logits_P[k + 2] = s2 + own + second_N[p2]
            logits_P[k + 3] = s3 + own + second_N[p3]
            k += 4
        while k < end:
            p0 = partners_P[k]
            s0 = zero
            for c in range(H):
                s0 += weight_H[c] * max(first_NH[n, c] + second_NH[p0, c], zero)
            logits_P[k] = s0 + own + second_N[p0]
            k += 1


@njit(**_fast)
def active_sums(
    own_NH: Array,
    other_NH: Array,
    offsets_N1: Array,
    partners_P: Array,
    slopes_P: Array,
    centred_NH: Array,
    out_NH: Array,
    partial_2TH: Array,
    start: int,
    stop: int,
) -> None:
    """``out[n, c] = sum over partners p of slope * (0.01 + 0.99 [own[n, c] + other[p, c] > 0])``.

    ``slopes`` is the derivative of the loss by the logits in the order of this list; ``out`` is then, but for the
    output weight, the derivative by the normalised hidden units, summed over the pairs of n. First axis of the partial
    sums over rows: ``out`` and ``out * centred``.
    """
    N, H = own_NH.shape
    zero = np.float32(0)
    leak = np.float32(0.01)
    rest = np.float32(0.99)
    for tile in range(start, stop):
        for c in range(H):
            partial_2TH[0, tile, c] = 0
            partial_2TH[1, tile, c] = 0
        for n in range(tile * TILE, min((tile + 1) * TILE, N)):
            for c in range(H):
                out_NH[n, c] = 0
            k = offsets_N1[n]
            end = offsets_N1[n + 1]
            total = zero
            while k + 4 <= end:
                p0, p1, p2, p3 = partners_P[k], partners_P[k + 1], partners_P[k + 2], partners_P[k + 3]
                g0, g1, g2, g3 = slopes_P[k], slopes_P[k + 1], slopes_P[k + 2], slopes_P[k + 3]
                total += (g0 + g1) + (g2 + g3)
                for c in range(H):
                    x = own_NH[n, c]
                    a0 = g0 if x + other_NH[p0, c] > zero else zero
                    a1 = g1 if x + other_NH[p1, c] > zero else zero
                    a2 = g2 if x + other_NH[p2, c] > zero else zero
                    a3 = g3 if x + other_NH[p3, c] > zero else zero
                    out_NH[n, c] += (a0 + a1) + (a2 + a3)
                k += 4
            while k < end:
                p0 = partners_P[k]
                g0 = slopes_P[k]
                total += g0
                for c in range(H):
                    out_NH[n, c] += g0 if own_NH[n, c] + other_NH[p0, c] > zero else zero
                k += 1
            for c in range(H):
                value = leak * total + rest * out_NH[n, c]
                out_NH[n, c] = value
                partial_2TH[0, tile, c] += np.float64(value)
                partial_2TH[1, tile, c] += np.float64(value) * np.float64(centred_NH[n, c])


@njit(**_fast)
def normalisation_backward(
    sums_NH: Array,
    counts_N: Array,
    factor_H: Array,
    mean_part_H: Array,
    var_part_H: Array,
    out_NH: Array,
    start: int,
    stop: int,
) -> None:
    """Batch norm's backward over the pairs of a row: in place ``factor out - counts mean_part - var_part sums``."""
    N, H = out_NH.shape
    for n in range(start * TILE, min(stop * TILE, N)):
        count = counts_N[n]
        for c in range(H):
            out_NH[n, c] = factor_H[c] * out_NH[n, c] - count * mean_part_H[c] - var_part_H[c] * sums_NH[n, c]
