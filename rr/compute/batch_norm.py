"""Update a batch-norm module's running statistics for code that normalizes in its place."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def count_batch_and_get_stats(norm: _BatchNorm) -> tuple[Tensor, Tensor, float]:
    """Add 1 to `norm.num_batches_tracked`, and return the running mean, the running variance and the momentum.

    `norm` must track running statistics with a momentum.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    return norm.running_mean, norm.running_var, norm.momentum


@torch.no_grad()
def update_running_stats(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor, values_per_channel: int
) -> None:
    """Update the running statistics of `norm` as a forward pass in training mode would.

    Args:
        norm: a module on the CPU that tracks running statistics with a momentum.
        mean_C: the mean of each channel in the batch, float64 (C,).
        var_C: the biased variance of each channel in the batch, float64 (C,).
        values_per_channel: the number of values per channel in the batch, at least 2.
    """
    running_mean, running_var, momentum = count_batch_and_get_stats(norm)
    # On arrays this small, NumPy takes a tenth as long as torch, which matters for small batches.
    unbiased_C = var_C.numpy() * (values_per_channel / (values_per_channel - 1))
    for running, new_C in ((running_mean, mean_C.numpy()), (running_var, unbiased_C)):
        running_C = running.numpy()
        with np.errstate(over="ignore"):  # if the network diverges, the result is infinite, as in torch
            running_C[...] = (1 - momentum) * running_C.astype(np.float64) + momentum * new_C
