"""The relation loss with element-wise maximum on a CPU, one first view at a time.

A linear layer of a maximum is no sum of row terms, so every pair passes through it. What can be saved is memory: pairs
are built, used and dropped for one first view i and all later views at a time. Batch norm still uses all P pairs:
moments of the hidden layer follow from those of its input, ``mean(W x + b)`` and ``diag(W Cov(x) W^T)``, and so does
the part of its backward that couples the pairs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rr.compute.batch_norm import BatchStatistics, update_running_statistics
from rr.methods.relation.objective import Loss, PairStatistics, count_pairs, pair_objective

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


def chunked_max_loss(
    head: "RelationHead",
    features_KMD: Tensor,
    partners: Tensor,
    loss: Loss,
    gamma: float,
    alpha: float = 0.5,
    positives: Tensor | None = None,
) -> tuple[Tensor, PairStatistics]:
    """Loss and counts of all pairs; arguments as in ``relation_loss``, for float32 or float64 and ``max`` only.

    Updates the running statistics of a head in training mode. The result has first derivatives only.
    """
    norm = head.norm
    with torch.autocast(features_KMD.device.type, enabled=False):
        value, positive, negative, mean_H, var_H = _MaxPairs.apply(
            features_KMD, head.linear.weight, head.linear.bias, norm.weight, norm.bias,
            head.output.weight, head.output.bias,
            partners, positives, BatchStatistics.of(norm), loss, gamma, alpha, torch.is_grad_enabled(),
        )  # fmt: skip
    if norm.training:
        update_running_statistics(norm, mean_H, var_H, positive.numel() + negative.numel())
    return value, count_pairs(positive, negative)


class _Chunk:
    """All pairs of one first view: ``pairs`` is ``(1 or 2, later views, M, D)``, positives before negatives."""

    def __init__(self, features_KMD: Tensor, partners: Tensor, positives: Tensor | None, i: int) -> None:
        K, M, D = features_KMD.shape
        self.i = i
        later = features_KMD[i + 1 :]
        first_pair = i * (2 * K - i - 1) // 2
        these = slice(first_pair, first_pair + len(later))
        own = torch.arange(M).expand(len(later), M) if positives is None else positives[these]
        kinds = (own, partners[these]) if partners.shape[1] else (own,)
        self.rows = torch.stack(kinds)[..., None].expand(-1, -1, -1, D)
        self.own = features_KMD[i]
        self.right = torch.stack([later.gather(1, rows) for rows in self.rows])
        self.pairs = torch.maximum(self.own, self.right)

    def relative_to(self, centre_D: Tensor) -> Tensor:
        return (self.pairs - centre_D).view(-1, len(centre_D))

    def scatter(self, gradient: Tensor, out_KMD: Tensor) -> None:
        """Add the gradient of the pairs to the rows they came from; rows that tie share it, as in torch."""
        gradient = gradient.view_as(self.pairs)
        to_own = gradient * ((self.own > self.right) + 0.5 * (self.own == self.right)).to(gradient.dtype)
        out_KMD[self.i] += to_own.sum((0, 1))
        for rows, to_right in zip(self.rows, gradient - to_own, strict=True):
            out_KMD[self.i + 1 :].scatter_add_(1, rows, to_right)


def _chunks(features_KMD: Tensor, partners: Tensor, positives: Tensor | None) -> Iterator[_Chunk]:
    for i in range(len(features_KMD) - 1):
        yield _Chunk(features_KMD, partners, positives, i)


def _input_moments(chunks: Iterator[_Chunk], centre_D: Tensor, P: int) -> tuple[Tensor, Tensor]:
    """Mean of all pairs relative to the centre ``(D,)`` and their sum of centred squares ``(D, D)``, float64."""
    D = len(centre_D)
    offset_D = torch.zeros(D, dtype=torch.float64)
    squares_DD = torch.zeros(D, D, dtype=torch.float64)
    for chunk in chunks:
        x_PD = chunk.relative_to(centre_D)
        offset_D += x_PD.sum(0, dtype=torch.float64) / P
        squares_DD += x_PD.T @ x_PD
    return offset_D, squares_DD - P * offset_D[:, None] * offset_D


class _MaxPairs(torch.autograd.Function):
    """Loss, logits, mean and variance; gradients are computed in ``forward``. D, H: features and hidden units."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight_HD: Tensor,
        bias_H: Tensor,
        gain_H: Tensor,
        shift_H: Tensor,
        output_1H: Tensor,
        output_bias: Tensor,
        partners: Tensor,
        positives: Tensor | None,
        statistics: BatchStatistics,
        loss: Loss,
        gamma: float,
        alpha: float,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        dtype, (K, M, _) = features.dtype, features.shape
        P = K * (K - 1) // 2 * M + partners.numel()
        # Pairs are taken relative to the mean row: squares of what is left are small enough to be summed as they are.
        centre_D = features.mean((0, 1))
        weight64_HD = weight_HD.double()
        if statistics.mean is None or statistics.var is None:
            offset_D, squares_DD = _input_moments(_chunks(features, partners, positives), centre_D, P)
            mean_H = weight64_HD @ (centre_D.double() + offset_D) + bias_H
            var_H = ((weight64_HD @ squares_DD) * weight64_HD).sum(1) / P
        else:
            mean_H, var_H = statistics.mean.double(), statistics.var.double()
        inverse_std_H = (var_H + statistics.eps).rsqrt()
        scale_H = gain_H * inverse_std_H
        folded_HD = (scale_H[:, None] * weight64_HD).to(dtype)
        folded_H = (scale_H * (weight64_HD @ centre_D.double() + bias_H - mean_H) + shift_H).to(dtype)

        value = torch.zeros((), dtype=torch.float64)
        logits = []
        grad_features = torch.zeros_like(features)
        slope_H, output_grad_H = torch.zeros_like(mean_H), torch.zeros_like(mean_H)
        slope_HD = torch.zeros_like(weight64_HD)
        slope_total = torch.zeros(1, dtype=torch.float64)
        for chunk in _chunks(features, partners, positives):
            x_PD = chunk.relative_to(centre_D)
            normalised_PH = F.linear(x_PD, folded_HD, folded_H)
            active_PH = F.leaky_relu(normalised_PH, 0.01)
            logits_P = F.linear(active_PH, output_1H, output_bias).squeeze(1)
            logits.append(logits_P.view(len(chunk.pairs), -1))
            with torch.enable_grad():
                variable = logits[-1].detach().requires_grad_(with_gradient)
                part = pair_objective(variable[0], variable[1:], loss, gamma, alpha) * (variable.numel() / P)
            value += part.detach()
            if not with_gradient:
                continue
            slope_P = torch.autograd.grad(part, variable)[0].view(-1)
            output_grad_H += slope_P @ active_PH
            slope_total += slope_P.sum()
            grad_PH = torch.where(normalised_PH > 0, output_1H, 0.01 * output_1H) * slope_P[:, None]
            slope_H += grad_PH.sum(0)
            slope_HD += grad_PH.T @ x_PD
            chunk.scatter(grad_PH @ folded_HD, grad_features)
        positive = torch.cat([logit[0] for logit in logits])
        negative = torch.cat([logit[1:].flatten() for logit in logits])
        outputs = value.to(dtype), positive, negative, mean_H, var_H
        ctx.mark_non_differentiable(*outputs[1:])
        if not with_gradient:
            return outputs

        if statistics.mean is None:
            # Through batch norm: what each pair gets from the mean and from the variance of all of them.
            centred_HD = slope_HD - slope_H[:, None] * offset_D
            cross_H = (weight64_HD * centred_HD).sum(1)  # sum over pairs of slope times centred hidden value
            mean_part_H, var_part_H = scale_H * slope_H / P, scale_H * inverse_std_H**2 * cross_H / P
            coupling_DD = weight64_HD.T @ (var_part_H[:, None] * weight64_HD)
            shared_D = (mean_part_H @ weight64_HD - offset_D @ coupling_DD).to(dtype)
            coupling_DD = coupling_DD.to(dtype)
            for chunk in _chunks(features, partners, positives):
                chunk.scatter(-(chunk.relative_to(centre_D) @ coupling_DD + shared_D), grad_features)
            grad_weight = scale_H[:, None] * centred_HD - var_part_H[:, None] * (weight64_HD @ squares_DD)
            grad_bias = torch.zeros_like(mean_H)
        else:
            grad_bias = scale_H * slope_H
            grad_weight = scale_H[:, None] * slope_HD + grad_bias[:, None] * centre_D
            hidden_H = weight64_HD @ centre_D.double() + bias_H - mean_H
            cross_H = (weight64_HD * slope_HD).sum(1) + hidden_H * slope_H
        gradients = (
            grad_weight, grad_bias, inverse_std_H * cross_H, slope_H, output_grad_H[None], slope_total,
        )  # fmt: skip
        ctx.save_for_backward(grad_features, *(g.to(dtype) for g in gradients))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:7]
        gradients = (g * grad_value if n else None for g, n in zip(ctx.saved_tensors, needed, strict=True))
        return *gradients, None, None, None, None, None, None, None
