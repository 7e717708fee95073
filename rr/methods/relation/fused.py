"""The relation loss on a CPU in float32: forward and backward together, without an array of P × H hidden values.

The loss of a pair depends only on its logit and on the batch statistics, so its gradient is known as soon as the logits
are. Three passes over the pairs do the work. Each of them sums over the partners of a row:

1. Sums of the centered hidden values: the batch-norm moments over all P pairs, and later their part in the gradient.
2. Logits, and the derivative of the loss with respect to them (P floats each).
3. This derivative times the slope of the LeakyReLU, once for the left and once for the right row of each pair.

The backward pass of batch norm is linear in these sums, so it is applied once per row instead of once per pair.

Names: N = K·M rows, P pairs, H hidden units.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rr.compute.batch_norm import BatchNormStats, update_running_stats
from rr.compute.thread_pool import parallel_for
from rr.methods.relation import kernels
from rr.methods.relation.factorized import first_layer_terms
from rr.methods.relation.pair_loss import (
    PairLossConfig,
    PairStatistics,
    alpha_weights,
    loss_and_grad,
    pair_statistics,
)

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


@dataclass
class _PairSide:
    """All rows as the left, or as the right rows of pairs, with their partners and intermediate results."""

    rows_NH: np.ndarray
    offsets_N1: np.ndarray
    partners_P: np.ndarray
    centered_NH: np.ndarray = field(init=False)
    pair_sums_NH: np.ndarray = field(init=False)  # sums of the centered hidden values over the pairs of a row
    folded_NH: np.ndarray = field(init=False)  # batch norm applied; the sum of two rows is a pair's normalized values
    linear_term_N: np.ndarray = field(init=False)  # linear part of the LeakyReLU times the output weight

    def __post_init__(self) -> None:
        self.counts_N = np.diff(self.offsets_N1).astype(np.float32)
        self.partner_lists = (self.offsets_N1, self.partners_P)


def fused_loss(
    head: "RelationHead", features_KMD: Tensor, partners: Tensor, positives: Tensor | None, config: PairLossConfig
) -> tuple[Tensor, PairStatistics]:
    """Return what `relation_loss` returns, for float32 on a CPU and any aggregation but `max`.

    A head in training mode updates its running statistics. The result has first derivatives only. The kernels give
    identical results with any number of threads; torch's matrix products and means do so only with the same number.
    """
    K, M, D = features_KMD.shape
    positive_QM = torch.arange(M).expand(K * (K - 1) // 2, M) if positives is None else positives
    lists = kernels.partner_lists(K, M, positive_QM.contiguous().numpy(), partners.contiguous().numpy())
    left_NH, right_NH = first_layer_terms(head, features_KMD.reshape(K * M, D))
    norm = head.norm
    step = 2 if M > 1 else 1  # positives and negatives alternate in the forward list

    def logit_loss_and_grad(logits_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and its derivatives. The logit of the wrong answer to a positive is the negated logit."""
        wrong_P = logits_P.clone()
        wrong_P[::step].neg_()
        value, grad_P = loss_and_grad(wrong_P, config, alpha_weights(wrong_P, slice(None, None, step), config))
        grad_P[::step].neg_()
        return value, grad_P

    value, logits_P, mean_H, var_H = _FusedPairs.apply(
        left_NH, right_NH, norm.weight, norm.bias, head.output.weight, head.output.bias,
        lists, BatchNormStats.from_module(norm), logit_loss_and_grad, torch.is_grad_enabled(),
    )  # fmt: skip
    if norm.training:
        update_running_stats(norm, mean_H, var_H, logits_P.numel())
    return value, pair_statistics(logits_P[::step], logits_P[1::step] if M > 1 else logits_P[:0])


class _FusedPairs(torch.autograd.Function):
    """Compute loss, logits, mean and variance from row terms and head parameters. `forward` computes the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        lists: tuple[np.ndarray, ...],
        stats: BatchNormStats,
        logit_loss_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]],
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        forward_offsets, forward, reverse_offsets, reverse, origin = lists
        u = _PairSide(left.numpy(), forward_offsets, forward)
        v = _PairSide(right.numpy(), reverse_offsets, reverse)
        gain_H, shift_H, weight_H = (t.numpy().ravel() for t in (norm_weight, norm_bias, output_weight))
        if stats.mean is None or stats.var is None:
            mean_H, var_H = _batch_moments(u, v)
        else:
            mean_H, var_H = stats.mean.double().numpy(), stats.var.double().numpy()
            u.centered_NH, v.centered_NH = u.rows_NH, u.rows_NH.copy()
            _run_tiles(kernels.subtract_mean, v, v.rows_NH, mean_H, v.centered_NH)
        inverse_std_H = 1 / np.sqrt(var_H + stats.eps)
        scale_H = gain_H * inverse_std_H

        logits = torch.from_numpy(_logits(u, v, scale_H, shift_H, weight_H, output_bias.item()))
        value, logit_grad = logit_loss_and_grad(logits)
        outputs = value, logits, torch.from_numpy(mean_H), torch.from_numpy(var_H)
        ctx.mark_non_differentiable(*outputs[1:])
        if not with_gradient:
            return outputs

        logit_grad_P = logit_grad.numpy()
        grad_u, grad_H, cross_u_H = _leaky_relu_grad_sums(u, v, logit_grad_P)
        grad_v, _, cross_v_H = _leaky_relu_grad_sums(v, u, logit_grad_P[origin])
        cross_H = cross_u_H + cross_v_H  # sum over pairs of the derivative times the centered hidden value
        factor_H = scale_H * weight_H
        for side, grad_NH in ((u, grad_u), (v, grad_v)):
            if stats.mean is None:
                mean_part_H = factor_H * grad_H / len(logit_grad_P)
                var_part_H = factor_H * inverse_std_H**2 * cross_H / len(logit_grad_P)
                factors = (a.astype(np.float32) for a in (factor_H, mean_part_H, var_part_H))
                _run_tiles(kernels.batch_norm_backward, side, side.pair_sums_NH, side.counts_N, *factors, grad_NH)
            else:
                grad_NH *= factor_H.astype(np.float32)
        ctx.save_for_backward(
            torch.from_numpy(grad_u),
            torch.from_numpy(grad_v),
            _to_float32(weight_H * inverse_std_H * cross_H),
            _to_float32(weight_H * grad_H),
            _to_float32(scale_H * cross_H + shift_H * grad_H)[None],
            _to_float32(logit_grad_P.sum(dtype=np.float64, keepdims=True)),
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:6]
        gradients = (g * grad_value if n else None for g, n in zip(ctx.saved_tensors, needed, strict=True))
        return *gradients, None, None, None, None


def _batch_moments(u: _PairSide, v: _PairSide) -> tuple[np.ndarray, np.ndarray]:
    """Pass 1: return mean and biased variance of the hidden values over all pairs, float64, and center both sides."""
    P = len(u.partners_P)
    mean_H = np.zeros(u.rows_NH.shape[1])
    for side in (u, v):
        partial_TH = _empty_partial_sums(side)
        _run_tiles(kernels.column_sums, side, side.rows_NH, side.counts_N, partial_TH)
        side_mean_H = partial_TH.sum(0) / P
        side.centered_NH = np.empty_like(side.rows_NH)
        _run_tiles(kernels.subtract_mean, side, side.rows_NH, side_mean_H, side.centered_NH)
        mean_H += side_mean_H
    squares_H = np.zeros_like(mean_H)
    for side, other in ((u, v), (v, u)):
        partial_TH = _empty_partial_sums(side)
        side.pair_sums_NH = np.empty_like(side.rows_NH)
        arguments = (side.centered_NH, other.centered_NH, *side.partner_lists, side.pair_sums_NH, partial_TH)
        _run_tiles(kernels.pair_sums, side, *arguments)
        squares_H += partial_TH.sum(0)
    return mean_H, squares_H / P


def _logits(
    u: _PairSide, v: _PairSide, scale_H: np.ndarray, shift_H: np.ndarray, weight_H: np.ndarray, output_bias: float
) -> np.ndarray:
    """Pass 2: fold batch norm into the rows, then compute the logit of each pair."""
    for side, side_shift_H in ((u, np.zeros_like(shift_H)), (v, shift_H)):
        side.folded_NH, side.linear_term_N = np.empty_like(side.rows_NH), np.empty(len(side.rows_NH), np.float32)
        parameters = (scale_H.astype(np.float32), side_shift_H, weight_H)
        _run_tiles(kernels.fold_batch_norm, side, side.centered_NH, *parameters, side.folded_NH, side.linear_term_N)
    u.linear_term_N += np.float32(output_bias)
    logits_P = np.empty(len(u.partners_P), np.float32)
    relu_weight_H = np.float32(0.99) * weight_H
    row_values = (u.folded_NH, v.folded_NH, u.linear_term_N, v.linear_term_N)
    _run_tiles(kernels.pair_logits, u, *row_values, relu_weight_H, *u.partner_lists, logits_P)
    return logits_P


def _leaky_relu_grad_sums(
    side: _PairSide, other: _PairSide, logit_grad_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pass 3 for one side: return the sums per row, their total, and their total weighted by the centered rows."""
    out_NH = np.empty_like(side.rows_NH)
    partial_2TH = np.stack((_empty_partial_sums(side), _empty_partial_sums(side)))
    row_values = (side.folded_NH, other.folded_NH, *side.partner_lists, logit_grad_P, side.centered_NH)
    _run_tiles(kernels.leaky_relu_grad_sums, side, *row_values, out_NH, partial_2TH)
    grad_H, cross_H = partial_2TH.sum(1)
    return out_NH, grad_H, cross_H


def _empty_partial_sums(side: _PairSide) -> np.ndarray:
    return np.empty((_num_tiles(side), side.rows_NH.shape[1]))


def _num_tiles(side: _PairSide) -> int:
    return -(-len(side.rows_NH) // kernels.TILE_ROWS)


def _to_float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def num_threads() -> int:
    """Return the number of threads that torch uses."""
    return torch.get_num_threads()


def _run_tiles(kernel: Callable[..., None], side: _PairSide, *arguments: Any) -> None:
    """Run a kernel on all tiles of a side, in several threads."""
    parallel_for(functools.partial(kernel, *arguments), _num_tiles(side), num_threads())
