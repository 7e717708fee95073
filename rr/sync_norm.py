"""Batch norm over the mini-batch of all processes of a run, on any device; torch's own takes no CPU tensors."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rr.methods.precision import at_least_float32


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

    torch's own kernels of batch norm pass over the values: var_mean and plain arithmetic take several times as long on
    a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        wide, C = at_least_float32(x), x.shape[1]
        mean_C, var_C = torch.batch_norm_update_stats(wide, None, None, 0.0)
        own = torch.cat((mean_C, var_C, mean_C.new_full((1,), x.numel() // C))).double()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        # Moments about each process's own mean are joined (Chan et al. 1979): sums of squares would cancel.
        mean_NC, var_NC, count_N1 = torch.stack(parts).split((C, C, 1), 1)
        count = count_N1.sum()
        share_N1 = count_N1 / count
        mean_C = (share_N1 * mean_NC).sum(0)
        var_C = (share_N1 * (var_NC + (mean_NC - mean_C).square())).sum(0)
        ctx.save_for_backward(x, weight, mean_C.to(wide.dtype), (var_C + eps).rsqrt().to(wide.dtype), count)
        ctx.mark_non_differentiable(mean_C, var_C, count)
        out = F.batch_norm(x, mean_C.to(wide.dtype), var_C.to(wide.dtype), weight, bias, eps=eps)
        return out, mean_C, var_C, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, inverse_std_C, count = ctx.saved_tensors
        # With the statistics of all, and the sums of this process's gradient alone: by weight and bias they are what
        # is wanted, by x their means over this process are to become those over all.
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad.to(x.dtype), x, weight, None, None, mean_C, inverse_std_C, True, 0.0, [True, True, True]
        )
        sums_2C = torch.stack((grad_bias, grad_weight))
        total_2C = sums_2C.to(torch.float64, copy=True)  # what is reduced is overwritten
        dist.all_reduce(total_2C)
        excess_2C = (sums_2C.double() * (x.shape[1] / x.numel()) - total_2C / count).to(mean_C.dtype)
        constant_C, slope_C = excess_2C * inverse_std_C * weight
        slope_C = slope_C * inverse_std_C
        shape = (1, -1, *[1] * (x.ndim - 2))
        grad_x += torch.addcmul((constant_C - mean_C * slope_C).view(shape), x, slope_C.view(shape))
        return grad_x, grad_weight, grad_bias, None
