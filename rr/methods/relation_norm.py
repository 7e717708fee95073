"""Batch norm outside ``BatchNorm1d``: what a form that normalises by itself reads from the layer and leaves there."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn


class BatchStatistics(NamedTuple):
    """Mean and variance to normalise with, ``(H,)``; None for both: those of the batch."""

    mean: Tensor | None
    var: Tensor | None
    eps: float

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> Self:
        """Running statistics in eval mode, those of the batch in training mode."""
        return cls(None, None, norm.eps) if norm.training else cls(norm.running_mean, norm.running_var, norm.eps)


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm1d, mean_H: Tensor, var_H: Tensor, P: int) -> None:
    """What ``BatchNorm1d`` does after a batch of P rows, from float64 mean and biased variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    unbiased_H = var_H * (P / (P - 1))
    norm.running_mean.copy_((1 - norm.momentum) * norm.running_mean.double() + norm.momentum * mean_H)
    norm.running_var.copy_((1 - norm.momentum) * norm.running_var.double() + norm.momentum * unbiased_H)
