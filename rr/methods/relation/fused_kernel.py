"""Numba kernels for the fused relation loss. They loop over the partners of each row, without an array of P × H values.

Notation: N = K·M rows, H hidden units, P pairs, T tiles of `TILE_ROWS` rows. A compressed list of partners consists of
`offsets_N1`, int64 (N + 1), and `partners_P`, int64: the partners of row n are
`partners_P[offsets_N1[n] : offsets_N1[n + 1]]`.

A kernel processes the tiles `start_tile` to `stop_tile - 1` without holding the GIL, so several threads can run it at
once. Each row belongs to one tile, and each tile has its own row in `partial_sums_TH`. Results are therefore
bit-identical for any number of threads. Values are float32; sums over rows are float64.
"""

from typing import Any

import numpy as np
from numba import njit

from rr.methods.relation.head import NEGATIVE_SLOPE

Array = np.ndarray

TILE_ROWS = 32

# Reassociation lets LLVM vectorize the sums over hidden units. The order of the terms is fixed in the compiled code.
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
_FAST_OPTIONS: dict[str, Any] = {**_OPTIONS, "fastmath": {"reassoc", "contract", "nsz"}}


@njit(**_OPTIONS)
def build_partner_lists(
    num_views: int, num_images: int, positive_rows_QM: Array, negative_rows_QM: Array
) -> tuple[Array, ...]:
    """Return each row's partners in the pairs in which it is the left row and in those in which it is the right row.

    In the partners of a left row, positives and negatives alternate. If M = 1, there are only positives.

    Returns:
        Offsets and partners of the left rows, offsets and partners of the right rows, and, for each entry of the right
        rows' partners, the position of the same pair in the left rows' partners.
    """
    K, M = num_views, num_images
    N = K * M
    pairs_per_view = 2 if M > 1 else 1  # a positive and, if there are other images, a negative
    left_offsets = np.empty(N + 1, np.int64)
    counts = np.zeros(N + 1, np.int64)  # counts[n + 1] is the number of pairs whose right row is n
    total = 0
    for n in range(N):
        left_offsets[n] = total
        total += pairs_per_view * (K - 1 - n // M)
    left_offsets[N] = total
    left_partners = np.empty(total, np.int64)
    position = 0
    for i in range(K):
        first_pair = i * (2 * K - i - 1) // 2  # index of the pair of views (i, i + 1)
        for m in range(M):
            for j in range(i + 1, K):
                positive = j * M + positive_rows_QM[first_pair + j - i - 1, m]
                left_partners[position] = positive
                counts[positive + 1] += 1
                position += 1
                if M > 1:
                    negative = j * M + negative_rows_QM[first_pair + j - i - 1, m]
                    left_partners[position] = negative
                    counts[negative + 1] += 1
                    position += 1
    # Sort the pairs by their right rows (a counting sort).
    right_offsets = np.cumsum(counts)
    next_slot = right_offsets[:-1].copy()  # where the next pair of each right row is written
    right_partners = np.empty(total, np.int64)
    left_positions = np.empty(total, np.int64)
    for n in range(N):
        for k in range(left_offsets[n], left_offsets[n + 1]):
            slot = next_slot[left_partners[k]]
            right_partners[slot] = n
            left_positions[slot] = k
            next_slot[left_partners[k]] = slot + 1
    return left_offsets, left_partners, right_offsets, right_partners, left_positions


@njit(**_FAST_OPTIONS)
def weighted_column_sums(
    rows_NH: Array, counts_N: Array, partial_sums_TH: Array, start_tile: int, stop_tile: int
) -> None:
    """Compute `partial_sums[tile]`, the sum of `counts[n] * rows[n]` over the rows n of the tile, for each tile."""
    N, H = rows_NH.shape
    for tile in range(start_tile, stop_tile):
        for c in range(H):
            partial_sums_TH[tile, c] = 0
        for n in range(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, N)):
            count = counts_N[n]
            for c in range(H):
                partial_sums_TH[tile, c] += count * np.float64(rows_NH[n, c])


@njit(**_FAST_OPTIONS)
def subtract_mean(rows_NH: Array, mean_H: Array, out_NH: Array, start_tile: int, stop_tile: int) -> None:
    """Compute `out = rows - mean`, with a float64 mean."""
    N, H = rows_NH.shape
    for n in range(start_tile * TILE_ROWS, min(stop_tile * TILE_ROWS, N)):
        for c in range(H):
            out_NH[n, c] = np.float32(rows_NH[n, c] - mean_H[c])


@njit(**_FAST_OPTIONS)
def sum_hidden_over_pairs(
    own_NH: Array,
    other_NH: Array,
    offsets_N1: Array,
    partners_P: Array,
    out_NH: Array,
    partial_sums_TH: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute `out[n]`, the sum of the hidden values `own[n] + other[p]` over the pairs of n.

    Also compute the partial sums of `own * out`. Their total over both sides of the pairs is the sum of the squared
    hidden values: `sum_p (u + v)^2 = sum_p u (u + v) + sum_p v (u + v)`. The rows are already centered, so no large
    numbers cancel.
    """
    N, H = own_NH.shape
    for tile in range(start_tile, stop_tile):
        for c in range(H):
            partial_sums_TH[tile, c] = 0
        for n in range(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, N)):
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
                partial_sums_TH[tile, c] += np.float64(own_NH[n, c]) * np.float64(out_NH[n, c])


@njit(**_OPTIONS)
def apply_batch_norm_and_linear_term(
    rows_NH: Array,
    scale_H: Array,
    shift_H: Array,
    weight_H: Array,
    out_NH: Array,
    linear_term_N: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Apply batch norm to rows, `out = rows * scale + shift`, and compute `linear_term[n] = 0.01 weight . out[n]`."""
    N, H = rows_NH.shape
    for n in range(start_tile * TILE_ROWS, min(stop_tile * TILE_ROWS, N)):
        for c in range(H):
            out_NH[n, c] = rows_NH[n, c] * scale_H[c] + shift_H[c]
        linear_term_N[n] = np.float32(NEGATIVE_SLOPE * _dot(weight_H, out_NH, n))


@njit(**_FAST_OPTIONS, forceinline=True)  # see rr/backbones/planar_kernel.py
def _dot(weight_H: Array, rows_NH: Array, n: int) -> float:
    """Return the dot product of `weight` and row n."""
    total = 0.0
    for c in range(weight_H.shape[0]):
        total += np.float64(weight_H[c]) * np.float64(rows_NH[n, c])
    return total


@njit(**_FAST_OPTIONS)
def pair_logits(
    left_NH: Array,
    right_NH: Array,
    left_linear_N: Array,
    right_linear_N: Array,
    weight_H: Array,
    offsets_N1: Array,
    partners_P: Array,
    logits_P: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute the logit of each pair k = (n, p).

    LeakyReLU(x) is 0.01 x + 0.99 max(x, 0). The logit is therefore
    `left_linear[n] + right_linear[p] + sum_c weight[c] max(left[n, c] + right[p, c], 0)`. The linear terms come from
    `apply_batch_norm_and_linear_term`, and `weight` is 0.99 times the output weight.
    """
    N, H = left_NH.shape
    zero = np.float32(0)
    for n in range(start_tile * TILE_ROWS, min(stop_tile * TILE_ROWS, N)):
        k = offsets_N1[n]
        end = offsets_N1[n + 1]
        own = left_linear_N[n]
        while k + 4 <= end:
            p0, p1, p2, p3 = partners_P[k], partners_P[k + 1], partners_P[k + 2], partners_P[k + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for c in range(H):
                x = left_NH[n, c]
                w = weight_H[c]
                s0 += w * max(x + right_NH[p0, c], zero)
                s1 += w * max(x + right_NH[p1, c], zero)
                s2 += w * max(x + right_NH[p2, c], zero)
                s3 += w * max(x + right_NH[p3, c], zero)
            logits_P[k] = s0 + own + right_linear_N[p0]
            logits_P[k + 1] = s1 + own + right_linear_N[p1]
            logits_P[k + 2] = s2 + own + right_linear_N[p2]
            logits_P[k + 3] = s3 + own + right_linear_N[p3]
            k += 4
        while k < end:
            p0 = partners_P[k]
            s0 = zero
            for c in range(H):
                s0 += weight_H[c] * max(left_NH[n, c] + right_NH[p0, c], zero)
            logits_P[k] = s0 + own + right_linear_N[p0]
            k += 1


@njit(**_FAST_OPTIONS)
def leaky_relu_grad_sums(
    own_NH: Array,
    other_NH: Array,
    offsets_N1: Array,
    partners_P: Array,
    logit_grad_P: Array,
    centered_NH: Array,
    out_NH: Array,
    partial_sums_2TH: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Compute `out[n, c]`, the sum over the partners p of `grad * (0.01 + 0.99 [own[n, c] + other[p, c] > 0])`.

    `logit_grad_P` is the gradient of the loss with respect to the logits, in the order of `partners_P`. Up to a factor
    (the output weight), `out` is the gradient with respect to the normalized hidden values, summed over the pairs of n.
    Also compute the sums of `out` and of `out * centered` over the rows of each tile.
    """
    N, H = own_NH.shape
    zero = np.float32(0)
    leak = np.float32(NEGATIVE_SLOPE)
    relu_factor = np.float32(1 - NEGATIVE_SLOPE)
    for tile in range(start_tile, stop_tile):
        for c in range(H):
            partial_sums_2TH[0, tile, c] = 0
            partial_sums_2TH[1, tile, c] = 0
        for n in range(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, N)):
            for c in range(H):
                out_NH[n, c] = 0
            k = offsets_N1[n]
            end = offsets_N1[n + 1]
            total = zero
            while k + 4 <= end:
                p0, p1, p2, p3 = partners_P[k], partners_P[k + 1], partners_P[k + 2], partners_P[k + 3]
                g0, g1, g2, g3 = logit_grad_P[k], logit_grad_P[k + 1], logit_grad_P[k + 2], logit_grad_P[k + 3]
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
                g0 = logit_grad_P[k]
                total += g0
                for c in range(H):
                    out_NH[n, c] += g0 if own_NH[n, c] + other_NH[p0, c] > zero else zero
                k += 1
            for c in range(H):
                value = leak * total + relu_factor * out_NH[n, c]
                out_NH[n, c] = value
                partial_sums_2TH[0, tile, c] += np.float64(value)
                partial_sums_2TH[1, tile, c] += np.float64(value) * np.float64(centered_NH[n, c])


@njit(**_FAST_OPTIONS)
def batch_norm_backward(
    pair_sums_NH: Array,
    counts_N: Array,
    factor_H: Array,
    mean_term_H: Array,
    var_term_H: Array,
    out_NH: Array,
    start_tile: int,
    stop_tile: int,
) -> None:
    """Apply the backward pass of batch norm to the gradient sums of each row, in place.

    Compute `out = factor * out - counts * mean_term - var_term * pair_sums`.
    """
    N, H = out_NH.shape
    for n in range(start_tile * TILE_ROWS, min(stop_tile * TILE_ROWS, N)):
        count = counts_N[n]
        for c in range(H):
            out_NH[n, c] = factor_H[c] * out_NH[n, c] - count * mean_term_H[c] - var_term_H[c] * pair_sums_NH[n, c]
