"""The relation loss on a CPU in float32, forward and backward in one go, without an array of P x hidden values.

The loss of a pair depends on its own logit and on batch statistics only, so its gradient is known as soon as the logits
are. Three passes over the pairs do the work, each a sum over the partners of a row:

1. sums of centred hidden values: batch-norm moments over all P pairs, and later their part in the gradient;
2. logits, their loss and its derivative (P floats each);
3. that derivative times the slope of the LeakyReLU, once for the first and once for the second row of each pair.

The backward of batch norm is linear in those sums, so it is applied once per row instead of once per pair.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rr.compute.batch_norm import BatchStatistics, update_running_statistics
from rr.compute.thread_pool import share
from rr.methods.relation import kernels as kernel
from rr.methods.relation.factorised import row_terms
from rr.methods.relation.objective import Loss, PairStatistics, count_pairs, loss_and_slopes, pair_balance

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


@dataclass
class _Side:
    """All rows as first, or as second of a pair: their partner lists and what the passes find out about them."""

    rows_NH: np.ndarray
    offsets_N1: np.ndarray
    partners_P: np.ndarray
    centred_NH: np.ndarray = field(init=False)
    hidden_sums_NH: np.ndarray = field(init=False)  # over the pairs of a row, centred
    folded_NH: np.ndarray = field(init=False)  # batch norm applied: a pair's normalised values are the sum of two rows
    linear_N: np.ndarray = field(init=False)  # the linear part of the LeakyReLU, through the output layer

    def __post_init__(self) -> None:
        self.counts_N = np.diff(self.offsets_N1).astype(np.float32)
        self.lists = (self.offsets_N1, self.partners_P)


def fused_loss(
    head: "RelationHead",
    features_KMD: Tensor,
    partners: Tensor,
    loss: Loss,
    gamma: float,
    alpha: float = 0.5,
    positives: Tensor | None = None,
) -> tuple[Tensor, PairStatistics]:
    """Loss and counts of all pairs; arguments as in ``relation_loss``, restricted to float32 on the CPU, not ``max``.

    Updates the running statistics of a head in training mode. The result has first derivatives only. The kernels give
    the same bits with any number of threads; torch's matrix products and means around them, with the same number.
    """
    K, M, D = features_KMD.shape
    own = torch.arange(M).expand(K * (K - 1) // 2, M) if positives is None else positives
    lists = kernel.partner_lists(K, M, own.contiguous().numpy(), partners.contiguous().numpy())
    first_NH, second_NH = row_terms(head, features_KMD.reshape(K * M, D))
    norm = head.norm
    step = 2 if M > 1 else 1  # positives and negatives alternate in the forward list

    def objective(logits_P: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its derivative by each logit: for positives, the logit of the wrong answer is the negated."""
        wrong_P = logits_P.clone()
        wrong_P[::step].neg_()
        balance = pair_balance(wrong_P, slice(None, None, step), loss, alpha)
        value, slopes_P = loss_and_slopes(wrong_P, loss, gamma, balance)
        slopes_P[::step].neg_()
        return value, slopes_P

    value, logits_P, mean_H, var_H = _FusedPairs.apply(
        first_NH, second_NH, norm.weight, norm.bias, head.output.weight, head.output.bias,
        lists, BatchStatistics.of(norm), objective, torch.is_grad_enabled(),
    )  # fmt: skip
    if norm.training:
        update_running_statistics(norm, mean_H, var_H, logits_P.numel())
    return value, count_pairs(logits_P[::step], logits_P[1::step] if M > 1 else logits_P[:0])


class _FusedPairs(torch.autograd.Function):
    """Loss, logits, mean and variance from row terms and head parameters; gradients are computed in ``forward``."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        lists: tuple[np.ndarray, ...],
        statistics: BatchStatistics,
        objective: Callable[[Tensor], tuple[Tensor, Tensor]],
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        forward_offsets, forward, reverse_offsets, reverse, origin = lists
        u = _Side(first.numpy(), forward_offsets, forward)
        v = _Side(second.numpy(), reverse_offsets, reverse)
        gain_H, shift_H, weight_H = (t.numpy().ravel() for t in (norm_weight, norm_bias, output_weight))
        if statistics.mean is None or statistics.var is None:
            mean_H, var_H = _batch_moments(u, v)
        else:
            mean_H, var_H = statistics.mean.double().numpy(), statistics.var.double().numpy()
            u.centred_NH, v.centred_NH = u.rows_NH, u.rows_NH.copy()
            _run(kernel.subtract, v, v.rows_NH, mean_H, v.centred_NH)
        inverse_std_H = 1 / np.sqrt(var_H + statistics.eps)
        scale_H = gain_H * inverse_std_H

        logits = torch.from_numpy(_logits(u, v, scale_H, shift_H, weight_H, output_bias.item()))
        value, slopes = objective(logits)
        outputs = value, logits, torch.from_numpy(mean_H), torch.from_numpy(var_H)
        ctx.mark_non_differentiable(*outputs[1:])
        if not with_gradient:
            return outputs

        slopes_P = slopes.numpy()
        grad_u, slope_H, cross_u_H = _active_sums(u, v, slopes_P)
        grad_v, _, cross_v_H = _active_sums(v, u, slopes_P[origin])
        cross_H = cross_u_H + cross_v_H  # sum over pairs of slope times centred hidden value
        factor_H = scale_H * weight_H
        for side, grad_NH in ((u, grad_u), (v, grad_v)):
            if statistics.mean is None:
                mean_part_H = factor_H * slope_H / len(slopes_P)
                var_part_H = factor_H * inverse_std_H**2 * cross_H / len(slopes_P)
                factors = (a.astype(np.float32) for a in (factor_H, mean_part_H, var_part_H))
                _run(kernel.normalisation_backward, side, side.hidden_sums_NH, side.counts_N, *factors, grad_NH)
            else:
                grad_NH *= factor_H.astype(np.float32)
        ctx.save_for_backward(
            torch.from_numpy(grad_u),
            torch.from_numpy(grad_v),
            _float32(weight_H * inverse_std_H * cross_H),
            _float32(weight_H * slope_H),
            _float32(scale_H * cross_H + shift_H * slope_H)[None],
            _float32(slopes_P.sum(dtype=np.float64, keepdims=True)),
        )
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:6]
        gradients = (g * grad_value if n else None for g, n in zip(ctx.saved_tensors, needed, strict=True))
        return *gradients, None, None, None, None


def _batch_moments(u: _Side, v: _Side) -> tuple[np.ndarray, np.ndarray]:
    """Pass 1: mean and biased variance of the hidden values over all pairs, float64; centres both sides."""
    P = len(u.partners_P)
    mean_H = np.zeros(u.rows_NH.shape[1])
    for side in (u, v):
        partial_TH = _partial_sums(side)
        _run(kernel.column_sums, side, side.rows_NH, side.counts_N, partial_TH)
        side_mean_H = partial_TH.sum(0) / P
        side.centred_NH = np.empty_like(side.rows_NH)
        _run(kernel.subtract, side, side.rows_NH, side_mean_H, side.centred_NH)
        mean_H += side_mean_H
    squares_H = np.zeros_like(mean_H)
    for side, other in ((u, v), (v, u)):
        partial_TH = _partial_sums(side)
        side.hidden_sums_NH = np.empty_like(side.rows_NH)
        _run(kernel.hidden_sums, side, side.centred_NH, other.centred_NH, *side.lists, side.hidden_sums_NH, partial_TH)
        squares_H += partial_TH.sum(0)
    return mean_H, squares_H / P


def _logits(
    u: _Side, v: _Side, scale_H: np.ndarray, shift_H: np.ndarray, weight_H: np.ndarray, output_bias: float
) -> np.ndarray:
    """Pass 2: fold batch norm into the rows, then one logit per pair."""
    for side, side_shift_H in ((u, np.zeros_like(shift_H)), (v, shift_H)):
        side.folded_NH, side.linear_N = np.empty_like(side.rows_NH), np.empty(len(side.rows_NH), np.float32)
        parameters = (scale_H.astype(np.float32), side_shift_H, weight_H)
        _run(kernel.fold, side, side.centred_NH, *parameters, side.folded_NH, side.linear_N)
    u.linear_N += np.float32(output_bias)
    logits_P = np.empty(len(u.partners_P), np.float32)
    rest_H = np.float32(0.99) * weight_H
    _run(kernel.pair_logits, u, u.folded_NH, v.folded_NH, u.linear_N, v.linear_N, rest_H, *u.lists, logits_P)
    return logits_P


def _active_sums(side: _Side, other: _Side, slopes_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pass 3 for one side: ``kernel.active_sums`` per row, their sum, and their sum weighted by the centred rows."""
    out_NH = np.empty_like(side.rows_NH)
    partial_2TH = np.stack((_partial_sums(side), _partial_sums(side)))
    arguments = (side.folded_NH, other.folded_NH, *side.lists, slopes_P, side.centred_NH, out_NH, partial_2TH)
    _run(kernel.active_sums, side, *arguments)
    slope_H, cross_H = partial_2TH.sum(1)
    return out_NH, slope_H, cross_H


def _partial_sums(side: _Side) -> np.ndarray:
    return np.empty((_tiles(side), side.rows_NH.shape[1]))


def _tiles(side: _Side) -> int:
    return -(-len(side.rows_NH) // kernel.TILE)


def _float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def thread_count() -> int:
    """As many threads as torch uses itself (``torch.set_num_threads``)."""
    return torch.get_num_threads()


def _run(function: Callable[..., None], side: _Side, *arguments: Any) -> None:
    """Call a kernel on all tiles of a side."""
    share(functools.partial(function, *arguments), _tiles(side), thread_count())
