"""What a fused kernel still owes the batch-norm module whose work it has done."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor, count: int) -> None:
    """What ``norm`` does after a batch of ``count`` values per channel, from float64 mean and biased variance (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    unbiased_C = var_C * (count / (count - 1))
    norm.running_mean.copy_((1 - norm.momentum) * norm.running_mean.double() + norm.momentum * mean_C)
    norm.running_var.copy_((1 - norm.momentum) * norm.running_var.double() + norm.momentum * unbiased_C)
