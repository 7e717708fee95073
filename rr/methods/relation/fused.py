"""The relation loss on a CPU in float32: forward and backward pass together, without an array of P × H hidden values.

The loss of a pair depends only on its logit, so the gradient with respect to the logit can be computed in the forward
pass. The computation makes three passes over the pairs, each of which loops over the partners of every row. The passes
compute:

1. Sums of the centered hidden values. They determine the batch-norm moments over all P pairs and, in the backward pass,
   the contribution of these moments to the gradient.
2. The logits, and the gradient of the loss with respect to them (P floats each).
3. Sums of this gradient times the slope of the LeakyReLU, once for the left and once for the right row of each pair.

The backward pass of batch norm is linear in these sums, so it is applied once per row instead of once per pair.

Notation: N = K·M rows, P pairs, H hidden units.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rr.compute.batch_norm import update_running_stats
from rr.compute.thread_pool import parallel_for
from rr.methods.relation import fused_kernel
from rr.methods.relation.factorized import left_and_right_hidden_terms
from rr.methods.relation.head import NEGATIVE_SLOPE
from rr.methods.relation.pair_loss import (
    PairLossConfig,
    PairStatistics,
    alpha_weights,
    pair_loss_and_grad,
    pair_statistics,
)

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


@dataclass
class _PairSide:
    """All rows as the left (or the right) rows of their pairs, with their partners and intermediate results.

    Pass 1 sets `centered_NH` and, in training mode, `pair_sums_NH`; pass 2 sets `normalized_NH` and `linear_term_N`.
    """

    rows_NH: np.ndarray
    offsets_N1: np.ndarray
    partners_P: np.ndarray
    centered_NH: np.ndarray = field(init=False)
    pair_sums_NH: np.ndarray = field(init=False)  # sums of the centered hidden values over the pairs of a row
    normalized_NH: np.ndarray = field(init=False)  # after batch norm; the values of a pair are the sum of two rows
    linear_term_N: np.ndarray = field(init=False)  # contribution of the linear part of the LeakyReLU to the logits

    def __post_init__(self) -> None:
        self.counts_N = np.diff(self.offsets_N1).astype(np.float32)
        self.partner_lists = (self.offsets_N1, self.partners_P)


class _GradSums(NamedTuple):
    """Sums of the logit gradient times the slope of the LeakyReLU over the pairs of one side."""

    per_row_NH: np.ndarray
    total_H: np.ndarray
    centered_total_H: np.ndarray  # weighted by the centered rows


def fused_relation_loss(
    head: "RelationHead",
    features_KMD: Tensor,
    negative_rows: Tensor,
    positive_rows: Tensor | None,
    config: PairLossConfig,
) -> tuple[Tensor, PairStatistics]:
    """Return what `relation_loss` returns, for float32 on a CPU and any aggregation except `max`.

    A head in training mode updates its running statistics. Only first derivatives are available. The kernels produce
    bit-identical results with any number of threads; torch's matrix products and means may not.
    """
    K, M, D = features_KMD.shape
    positive_QM = torch.arange(M).expand(K * (K - 1) // 2, M) if positive_rows is None else positive_rows
    lists = fused_kernel.build_partner_lists(K, M, positive_QM.contiguous().numpy(), negative_rows.contiguous().numpy())
    left_NH, right_NH = left_and_right_hidden_terms(head, features_KMD.reshape(K * M, D))
    norm = head.norm
    step = 2 if M > 1 else 1  # for M > 1, positives and negatives alternate in the partners of a left row

    def mean_loss_and_logit_grad(alternating_logits_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss and its gradient, (P,), given the logits of alternating positive and negative pairs."""
        wrong_logits_P = alternating_logits_P.clone()
        wrong_logits_P[::step].neg_()  # for a positive pair, the logit of the wrong answer is the negated logit
        alpha = alpha_weights(wrong_logits_P, slice(None, None, step), config)
        loss, grad_P = pair_loss_and_grad(wrong_logits_P, config, alpha)
        grad_P[::step].neg_()
        return loss, grad_P

    loss, logits_P, mean_H, var_H = _FusedPairs.apply(
        left_NH, right_NH, norm.weight, norm.bias, head.output.weight, head.output.bias,
        lists, norm, mean_loss_and_logit_grad, torch.is_grad_enabled(),
    )  # fmt: skip
    if norm.training:
        update_running_stats(norm, mean_H, var_H, logits_P.numel())
    return loss, pair_statistics(logits_P[::step], logits_P[1::step] if M > 1 else logits_P[:0])


class _FusedPairs(torch.autograd.Function):
    """Return the loss, the logits, and the batch mean and variance. The forward pass also computes the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        left_NH: Tensor,
        right_NH: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        lists: tuple[np.ndarray, ...],
        norm: nn.BatchNorm1d,
        mean_loss_and_logit_grad: Callable[[Tensor], tuple[Tensor, Tensor]],
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        left_offsets, left_partners, right_offsets, right_partners, left_positions = lists
        left = _PairSide(left_NH.numpy(), left_offsets, left_partners)
        right = _PairSide(right_NH.numpy(), right_offsets, right_partners)
        gain_H, shift_H, weight_H = (t.numpy().ravel() for t in (norm_weight, norm_bias, output_weight))
        if norm.training:
            mean_H, var_H = _center_and_compute_moments(left, right)
        else:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean_H, var_H = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
            # The mean is subtracted from only one side, because a pair's hidden value is the sum of its two rows.
            left.centered_NH, right.centered_NH = left.rows_NH, np.empty_like(right.rows_NH)
            _run_tiles(fused_kernel.subtract_mean, right, right.rows_NH, mean_H, right.centered_NH)
        inverse_std_H = 1 / np.sqrt(var_H + norm.eps)
        scale_H = gain_H * inverse_std_H

        logits = torch.from_numpy(_compute_logits(left, right, scale_H, shift_H, weight_H, output_bias.item()))
        loss, logit_grad = mean_loss_and_logit_grad(logits)
        outputs = loss, logits, torch.from_numpy(mean_H), torch.from_numpy(var_H)
        ctx.mark_non_differentiable(*outputs[1:])
        if not with_gradient:
            return outputs

        logit_grad_P = logit_grad.numpy()
        left_sums = _leaky_relu_grad_sums(left, right, logit_grad_P)
        right_sums = _leaky_relu_grad_sums(right, left, logit_grad_P[left_positions])
        # `total_H` is the sum over all pairs of the logit gradient times the LeakyReLU slope. `centered_total_H` is the
        # sum of this product times the centered hidden value. Each pair has a left and a right row, so both sides have
        # the same `total_H`.
        total_H = left_sums.total_H
        centered_total_H = left_sums.centered_total_H + right_sums.centered_total_H
        factor_H = scale_H * weight_H
        if norm.training:
            P = len(logit_grad_P)
            mean_term_H = factor_H * total_H / P
            var_term_H = factor_H * inverse_std_H**2 * centered_total_H / P
            factors = tuple(a.astype(np.float32) for a in (factor_H, mean_term_H, var_term_H))
            for side, grad_NH in ((left, left_sums.per_row_NH), (right, right_sums.per_row_NH)):
                _run_tiles(fused_kernel.batch_norm_backward, side, side.pair_sums_NH, side.counts_N, *factors, grad_NH)
        else:
            for grad_NH in (left_sums.per_row_NH, right_sums.per_row_NH):
                grad_NH *= factor_H.astype(np.float32)
        ctx.save_for_backward(  # the gradients of the first six arguments
            torch.from_numpy(left_sums.per_row_NH),  # left_NH
            torch.from_numpy(right_sums.per_row_NH),  # right_NH
            _to_float32(weight_H * inverse_std_H * centered_total_H),  # norm_weight
            _to_float32(weight_H * total_H),  # norm_bias
            _to_float32(scale_H * centered_total_H + shift_H * total_H)[None],  # output_weight
            _to_float32(logit_grad_P.sum(dtype=np.float64, keepdims=True)),  # output_bias
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:6]
        gradients = (g * grad_loss if n else None for g, n in zip(ctx.saved_tensors, needed, strict=True))
        return *gradients, None, None, None, None


def _center_and_compute_moments(left: _PairSide, right: _PairSide) -> tuple[np.ndarray, np.ndarray]:
    """Center both sides, and return mean and biased variance (float64) of the hidden values of all pairs (pass 1)."""
    P = len(left.partners_P)
    mean_H = np.zeros(left.rows_NH.shape[1])
    for side in (left, right):
        partial_sums_TH = _empty_partial_sums(side)
        _run_tiles(fused_kernel.weighted_column_sums, side, side.rows_NH, side.counts_N, partial_sums_TH)
        side_mean_H = partial_sums_TH.sum(0) / P
        side.centered_NH = np.empty_like(side.rows_NH)
        _run_tiles(fused_kernel.subtract_mean, side, side.rows_NH, side_mean_H, side.centered_NH)
        mean_H += side_mean_H
    squares_H = np.zeros_like(mean_H)
    for side, other in ((left, right), (right, left)):
        partial_sums_TH = _empty_partial_sums(side)
        side.pair_sums_NH = np.empty_like(side.rows_NH)
        arguments = (side.centered_NH, other.centered_NH, *side.partner_lists, side.pair_sums_NH, partial_sums_TH)
        _run_tiles(fused_kernel.sum_hidden_over_pairs, side, *arguments)
        squares_H += partial_sums_TH.sum(0)
    return mean_H, squares_H / P


def _compute_logits(
    left: _PairSide,
    right: _PairSide,
    scale_H: np.ndarray,
    shift_H: np.ndarray,
    weight_H: np.ndarray,
    output_bias: float,
) -> np.ndarray:
    """Apply batch norm to the rows of both sides, and return the logit of each pair (pass 2)."""
    for side, side_shift_H in ((left, np.zeros_like(shift_H)), (right, shift_H)):
        side.normalized_NH, side.linear_term_N = np.empty_like(side.rows_NH), np.empty(len(side.rows_NH), np.float32)
        parameters = (scale_H.astype(np.float32), side_shift_H, weight_H)
        _run_tiles(
            fused_kernel.apply_batch_norm_and_linear_term,
            side,
            side.centered_NH,
            *parameters,
            side.normalized_NH,
            side.linear_term_N,
        )
    left.linear_term_N += np.float32(output_bias)
    logits_P = np.empty(len(left.partners_P), np.float32)
    relu_weight_H = np.float32(1 - NEGATIVE_SLOPE) * weight_H
    row_values = (left.normalized_NH, right.normalized_NH, left.linear_term_N, right.linear_term_N)
    _run_tiles(fused_kernel.pair_logits, left, *row_values, relu_weight_H, *left.partner_lists, logits_P)
    return logits_P


def _leaky_relu_grad_sums(side: _PairSide, other: _PairSide, logit_grad_P: np.ndarray) -> _GradSums:
    """Sum the logit gradient times the LeakyReLU slope over the pairs of each row, and over all rows (pass 3).

    The output weights of the head are not included.
    """
    sums_NH = np.empty_like(side.rows_NH)
    partial_sums_2TH = np.stack((_empty_partial_sums(side), _empty_partial_sums(side)))
    row_values = (side.normalized_NH, other.normalized_NH, *side.partner_lists, logit_grad_P, side.centered_NH)
    _run_tiles(fused_kernel.leaky_relu_grad_sums, side, *row_values, sums_NH, partial_sums_2TH)
    return _GradSums(sums_NH, *partial_sums_2TH.sum(1))


def _empty_partial_sums(side: _PairSide) -> np.ndarray:
    return np.empty((_num_tiles(side), side.rows_NH.shape[1]))


def _num_tiles(side: _PairSide) -> int:
    return -(-len(side.rows_NH) // fused_kernel.TILE_ROWS)


def _to_float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _run_tiles(kernel: Callable[..., None], side: _PairSide, *arguments: Any) -> None:
    """Run a kernel on all tiles of a side, with as many threads as torch uses."""
    parallel_for(functools.partial(kernel, *arguments), _num_tiles(side), torch.get_num_threads())
