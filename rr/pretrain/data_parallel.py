"""A method trained by several processes, to the same loss and the same gradients as by one.

Each process holds all weights, makes the views of its share of the mini-batch's pictures, and passes them through the
backbone, whose batch norms are synchronised. The representations z are gathered in the order of one process, and each
process computes the whole loss L(z, h) from them, h being the weights of the head. So dL/dh is whole in every process,
and the mean over N processes, which DistributedDataParallel takes, leaves it as it is. The gradient of the backbone's
weights w is the sum over processes r of dL/dz_r · dz_r/dw. L is computed N times, so gathering hands back the sum of N
equal gradients, N · dL/dz_r, and the mean over processes of N times their share is that sum.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from rr.compute.distributed import Group
from rr.compute.sync_batch_norm import synchronise
from rr.methods.base import Method, Statistics


class Replicas:
    """The processes of `group` as trainers of one method.

    Built before the method: in training, `backbone` from then on takes each process's own views and gives all of them
    the representations of the whole mini-batch.
    """

    def __init__(self, group: Group, backbone: nn.Module) -> None:
        self.group = group
        self.images = 0  # of the mini-batch that passes the backbone now
        self._parallel: nn.Module | None = None
        synchronise(backbone)

        # A function, which copies of the backbone (BYOL's target) keep as it is; a method would be copied with self.
        def gather(module: nn.Module, inputs: Any, rows_ND: Tensor) -> Tensor:
            return _Gather.apply(rows_ND, self.group, self.images) if module.training else rows_ND

        backbone.register_forward_hook(gather)

    def replicate(self, method: Method) -> None:
        """Begin to train `method`, which was built around the backbone, with the weights of the first process."""
        self._parallel = DistributedDataParallel(_Loss(method))

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """The method's, of the whole mini-batch: `views` are of this process's share, `labels` and `drawn` of all."""
        assert self._parallel is not None
        self.images = len(labels)
        return self._parallel(views, labels, drawn)


class _Loss(nn.Module):
    """The method's loss as a forward pass, which DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        return self.method.loss(views, labels, drawn)


class _Gather(torch.autograd.Function):
    """Rows (G·m, D) of this process's m of M pictures, in G groups (such as views), to those of all, (G·M, D)."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, group: Group, images: int) -> Tensor:
        shares = [group.share(images, rank) for rank in range(group.size)]
        sizes = [share.stop - share.start for share in shares]
        ctx.own, ctx.images, ctx.processes = shares[group.rank], images, group.size
        own_GmD = rows_ND.reshape(-1, sizes[group.rank], rows_ND.shape[1])
        # Collectives want one size, so a smaller share is filled up.
        padded_GmD = own_GmD.new_zeros(len(own_GmD), max(sizes), own_GmD.shape[2])
        padded_GmD[:, : own_GmD.shape[1]] = own_GmD
        parts = [torch.empty_like(padded_GmD) for _ in sizes]
        dist.all_gather(parts, padded_GmD)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], 1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        # The sum of the processes' gradients, without asking them: each has the same.
        grad_GMD = grad_ND.reshape(-1, ctx.images, grad_ND.shape[1])
        return (grad_GMD[:, ctx.own] * ctx.processes).flatten(0, 1), None, None
