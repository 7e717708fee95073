"""Batch norm over the mini-batch of all processes of a run, on any device; torch's own takes no CPU tensors."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rr.compute.precision import at_least_float32


class SynchronisedBatchNorm(_BatchNorm):
    """What BatchNorm1d, 2d or 3d computes, as if the values of all processes were one mini-batch.

    Output, gradients and running statistics are theirs; the gradients by weight and bias are each process's share,
    whose sum over the processes is the whole. Every process must come here, with at least one value per channel. Has
    first derivatives only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map float (B, C, …), B of any size in each process, to the same shape and type."""
        if not self.training:
            return super().forward(x)
        out, mean_C, var_C, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        self._track(mean_C, var_C * count / (count - 1))
        return out

    @torch.no_grad()
    def _track(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), self.momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any number of dimensions


def synchronise(network: nn.Module) -> None:
    """Replace every batch norm within `network` by one that is synchronised, of the same weights and statistics."""
    for name, module in network.named_children():
        if isinstance(module, _BatchNorm):
            norm = SynchronisedBatchNorm(module.num_features, module.eps, module.momentum)
            norm.load_state_dict(module.state_dict())
            setattr(network, name, norm)
        else:
            synchronise(module)


class _Normalise(torch.autograd.Function):
    """Output; mean and biased variance of all processes, float64 (C,); and their number of values per channel, 0-d.

    On a CPU torch's kernel adds up a channel's values one by one in float32: of a million, the variance has three right
    digits. Here sums are torch.sum's, which keep six, over rows of a picture's positions × channels, in which what
    belongs to a channel is repeated: torch is fast with long rows alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        C, positions = x.shape[1], x[0, 0].numel()
        rows_BR = _rows(x)
        own_count = len(rows_BR) * positions
        mean_C = _sum(rows_BR, C) / own_count
        var_C = _sum((rows_BR - mean_C.repeat(positions)).square_(), C) / own_count
        own = torch.cat((mean_C, var_C, mean_C.new_full((1,), own_count))).double()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        # Moments about each process's own mean are joined (Chan et al. 1979): sums of squares would cancel.
        mean_NC, var_NC, count_N1 = torch.stack(parts).split((C, C, 1), 1)
        count = count_N1.sum()
        share_N1 = count_N1 / count
        mean_C = (share_N1 * mean_NC).sum(0)
        var_C = (share_N1 * (var_NC + (mean_NC - mean_C).square())).sum(0)
        narrow = [statistic.to(rows_BR.dtype) for statistic in (mean_C, var_C, (var_C + eps).rsqrt())]
        ctx.save_for_backward(x, weight, narrow[0], narrow[2], count)
        ctx.mark_non_differentiable(mean_C, var_C, count)
        return F.batch_norm(x, narrow[0], narrow[1], weight, bias, eps=eps), mean_C, var_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, inverse_std_C, count = ctx.saved_tensors
        C, positions = x.shape[1], x[0, 0].numel()
        grad_BR, centred_BR = _rows(grad), _rows(x) - mean_C.repeat(positions)
        sums_2C = torch.stack((_sum(grad_BR, C), _sum(grad_BR * centred_BR, C) * inverse_std_C))
        total_2C = sums_2C.to(torch.float64, copy=True)  # what is reduced is overwritten
        dist.all_reduce(total_2C)
        constant_C, slope_C = (total_2C / count).to(mean_C.dtype)
        centred_BR *= (slope_C * inverse_std_C).repeat(positions)
        grad_x_BR = (grad_BR - centred_BR).sub_(constant_C.repeat(positions))
        grad_x_BR *= (inverse_std_C * weight).repeat(positions)
        grad_x = grad_x_BR.view(len(x), *x.shape[2:], C).movedim(-1, 1)
        return grad_x.to(x.dtype), sums_2C[1], sums_2C[0], None


def _rows(x: Tensor) -> Tensor:
    """(B, C, …) as at least float32 (B, … · C), channels last; a copy only where they are not last in memory."""
    return at_least_float32(x.movedim(1, -1).reshape(len(x), -1))


def _sum(rows_BR: Tensor, channels: int) -> Tensor:
    return rows_BR.sum(0).view(-1, channels).sum(0)
