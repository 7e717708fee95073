"""Batch norm over the combined mini-batch of all processes in a run, on any device.

torch.nn.SyncBatchNorm does the same, but only on GPUs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rr.compute.batch_norm import count_batch_and_get_stats
from rr.compute.minimum_precision import at_least_float32
from rr.errors import UserError

_CONVERTIBLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the same results as BatchNorm1d, 2d or 3d on the concatenated mini-batches of all processes.

    Outputs, input gradients and running statistics are the same as for the concatenated mini-batch. Each process
    computes its contribution to the gradients of the weight and the bias; the sum over the processes is the complete
    gradient. All processes must call the module, each with at least one value per channel. Only first derivatives are
    supported.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x`, float (B, C, …), without changing its shape or dtype; B may differ between processes."""
        if not self.training:
            return super().forward(x)
        out, mean_C, var_C, count = _NormalizeFunction.apply(x, self.weight, self.bias, self.eps)
        self._update_running_stats(mean_C, var_C * count / (count - 1))
        return out

    @torch.no_grad()
    def _update_running_stats(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        running_mean, running_var, momentum = count_batch_and_get_stats(self)
        running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased_C.to(running_var.dtype), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # accept any number of dimensions


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Convert every batch norm in `network`, in place, to a SyncBatchNorm with the same weights and statistics.

    Raises:
        UserError: if a batch norm lacks weights, running statistics or a momentum, or if it is a subclass, which may
            compute more than a batch norm.
    """
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        is_complete = module.affine and module.track_running_stats and module.momentum is not None
        if type(module) not in _CONVERTIBLE or not is_complete:
            raise UserError(
                f"the backbone's layer {name} ({type(module).__name__}) cannot be synchronized between processes, "
                "because it is not a BatchNorm1d, BatchNorm2d or BatchNorm3d with affine=True, "
                "track_running_stats=True and a momentum: run the command without torchrun, or choose a different "
                "backbone"
            )
        module.__class__ = SyncBatchNorm  # keeps the parameters, including shared and frozen ones


class _NormalizeFunction(torch.autograd.Function):
    """Return the output, and the mean, biased variance and number of values of each channel over all processes.

    The mean and the variance are float64 (C,). On a CPU, torch's batch norm adds up a channel's values one by one in
    float32. For a million values, its variance has only three correct digits. With torch.sum, which this function uses,
    six digits are correct. The function first sums over the images, which are the rows of a matrix, and then over the
    positions, because torch.sum is fast only for long rows.

    Shapes: N processes, B images of this process, C channels. A row contains the R = num_positions · C values of an
    image, channels last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        C, num_positions = x.shape[1], x[0, 0].numel()
        rows_BR = _flatten_channels_last(x)
        local_count = len(rows_BR) * num_positions
        mean_C = _channel_sums(rows_BR, C) / local_count
        var_C = _channel_sums((rows_BR - mean_C.repeat(num_positions)).square_(), C) / local_count
        local_stats = torch.cat((mean_C, var_C, mean_C.new_full((1,), local_count))).double()
        all_stats = [torch.empty_like(local_stats) for _ in range(dist.get_world_size())]
        dist.all_gather(all_stats, local_stats)
        # Combine central moments (Chan, Golub and LeVeque 1979); sums of squares would lose digits to cancellation.
        mean_NC, var_NC, count_N1 = torch.stack(all_stats).split((C, C, 1), 1)
        count = count_N1.sum()
        fraction_N1 = count_N1 / count
        mean_C = (fraction_N1 * mean_NC).sum(0)
        var_C = (fraction_N1 * (var_NC + (mean_NC - mean_C).square())).sum(0)
        mean, var, inverse_std = (value.to(rows_BR.dtype) for value in (mean_C, var_C, (var_C + eps).rsqrt()))
        ctx.save_for_backward(x, weight, mean, inverse_std, count)
        ctx.mark_non_differentiable(mean_C, var_C, count)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean_C, var_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, inverse_std_C, count = ctx.saved_tensors
        C, num_positions = x.shape[1], x[0, 0].numel()
        grad_BR, centered_BR = _flatten_channels_last(grad), _flatten_channels_last(x) - mean_C.repeat(num_positions)
        sums_2C = torch.stack((_channel_sums(grad_BR, C), _channel_sums(grad_BR * centered_BR, C) * inverse_std_C))
        total_2C = sums_2C.to(torch.float64, copy=True)  # a copy, because all_reduce overwrites its argument
        dist.all_reduce(total_2C)
        # For the gradient g and the normalized values x̂, the result is weight / std · (g - mean(g) - x̂ · mean(g · x̂)).
        mean_grad_C, mean_grad_normalized_C = (total_2C / count).to(mean_C.dtype)
        centered_BR *= (mean_grad_normalized_C * inverse_std_C).repeat(num_positions)
        grad_x_BR = (grad_BR - centered_BR).sub_(mean_grad_C.repeat(num_positions))
        grad_x_BR *= (inverse_std_C * weight).repeat(num_positions)
        grad_x = grad_x_BR.view(len(x), *x.shape[2:], C).movedim(-1, 1)
        return grad_x.to(x.dtype), sums_2C[1], sums_2C[0], None


def _flatten_channels_last(x: Tensor) -> Tensor:
    """Reshape (B, C, …) to (B, … · C) and convert it to at least float32, without a copy if possible."""
    return at_least_float32(x.movedim(1, -1).reshape(len(x), -1))


def _channel_sums(rows_BR: Tensor, channels: int) -> Tensor:
    return rows_BR.sum(0).view(-1, channels).sum(0)
