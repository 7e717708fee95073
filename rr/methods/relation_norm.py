"""Batch norm outside ``BatchNorm1d``: what a form that normalises by itself reads from the layer."""

from typing import NamedTuple, Self

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
