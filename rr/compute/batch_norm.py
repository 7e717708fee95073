"""What a fused kernel still owes the batch-norm module whose work it has done."""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor, count: int) -> None:
    """What ``norm`` does after a batch of ``count`` values per channel, on the CPU: float64 mean, biased variance."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    # In numpy, whose calls on a few numbers cost a tenth of torch's: small steps feel it.
    unbiased_C = var_C.numpy() * (count / (count - 1))
    for running, new_C in ((norm.running_mean, mean_C.numpy()), (norm.running_var, unbiased_C)):
        running_C = running.numpy()
        with np.errstate(over="ignore"):  # a network that has diverged: infinity, as from torch
            running_C[...] = (1 - norm.momentum) * running_C.astype(np.float64) + norm.momentum * new_C


class BatchStatistics(NamedTuple):
    """Mean and variance to normalise with, ``(H,)``; None for both: those of the batch."""

    mean: Tensor | None
    var: Tensor | None
    eps: float

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> Self:
        """Running statistics in eval mode, those of the batch in training mode."""
        return cls(None, None, norm.eps) if norm.training else cls(norm.running_mean, norm.running_var, norm.eps)
