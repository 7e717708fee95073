"""Train a method in several processes, with the same loss and the same gradients as in a single process.

Each process has a full copy of the weights. It computes the views of its part of the mini-batch and encodes them with
the backbone, whose batch norms are synchronized. The representations z are then gathered in the same order as in a
single process. Each process computes the complete loss L(z, h), where h denotes the head's weights.

DistributedDataParallel averages gradients over the N processes. The gradient dL/dh is the same in all of them, so
averaging does not change it. The gradient of the backbone's weights w is the sum over the processes r of dL/dz_r ·
dz_r/dw. Because L is computed N times, the backward pass of `_Gather` returns the sum of N identical gradients, N ·
dL/dz_r. The average over the processes is then the required sum.

Networks with dropout are the exception: each process draws its own masks, which differ from those of a single process.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from rr.backbones.base import Backbone
from rr.compute.process_group import ProcessGroup
from rr.compute.sync_batch_norm import convert_sync_batchnorm
from rr.errors import UserError
from rr.methods.base import Method, Metrics
from rr.runtime.formatting import format_count


def check_world_size(method_kind: str, method: Method, world_size: int, images_per_epoch: int, batch_size: int) -> None:
    """Check that the method can be trained by several processes, each with at least one image of every mini-batch.

    Raises:
        UserError: if the method does not support several processes, or if any mini-batch has fewer images than there
            are processes.
    """
    if not method.supports_data_parallel:
        raise UserError(
            f"the {method_kind} method does not support training with several processes ({world_size} were started): "
            "run the command without torchrun"
        )
    if min(batch_size, images_per_epoch) < world_size:
        limit = min(batch_size, images_per_epoch)
        raise UserError(
            f"{world_size} processes cannot share mini-batches of {format_count(limit, 'images')}, because each "
            f"process needs at least one image: start at most {format_count(limit, 'processes', 'process')}"
        )
    remainder = images_per_epoch % batch_size
    if 0 < remainder < world_size:
        raise UserError(
            f"with {images_per_epoch:,} images and a batch_size of {batch_size:,}, the size of the last mini-batch is "
            f"{remainder}, but each of {world_size} processes needs at least one image: use fewer processes (no more "
            f"than {remainder}), or choose another batch_size for the method in params.yaml"
        )


class DataParallelMethod:
    """A method that the processes of `group` train together.

    Create this object before the method that uses `backbone`, and then call `wrap`. From then on, `backbone` in
    training mode takes the views of this process and returns the representations of the complete mini-batch.
    """

    def __init__(self, group: ProcessGroup, backbone: Backbone) -> None:
        self.group = group
        self.batch_size = 0  # number of images in the current mini-batch, over all processes
        self._parallel: nn.Module | None = None
        convert_sync_batchnorm(backbone)

        # This is a function instead of a method, because `copy.deepcopy` of the backbone (for BYOL's target network)
        # would copy a bound method together with `self`, but does not copy a function.
        def gather_from_processes(module: nn.Module, inputs: Any, rows_ND: Tensor) -> Tensor:
            return _Gather.apply(rows_ND, self.group, self.batch_size) if module.training else rows_ND

        backbone.register_forward_hook(gather_from_processes)

    def wrap(self, method: Method, *, may_skip_parameters: bool = False) -> None:
        """Set the method, which must use the backbone, and copy the main process's weights to all processes.

        If `may_skip_parameters` is true, the loss of a step need not depend on all trainable parameters.
        """
        self._parallel = DistributedDataParallel(_MethodLoss(method), find_unused_parameters=may_skip_parameters)

    def loss(
        self, local_views: Tensor, all_labels: Tensor, all_random_inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of the complete mini-batch.

        Args:
            local_views: the views of this process's images.
            all_labels: the labels of the complete mini-batch.
            all_random_inputs: the random inputs for the complete mini-batch.
        """
        assert self._parallel is not None
        self.batch_size = len(all_labels)
        return self._parallel(local_views, all_labels, all_random_inputs)


class _MethodLoss(nn.Module):
    """A module whose forward pass is the loss of a method, as DistributedDataParallel requires."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        return self.method.loss(views, labels, random_inputs)


class _Gather(torch.autograd.Function):
    """Gather rows from all processes: (G·m, D) for the m images of this process become (G·M, D) for all M images.

    G is the number of rows per image, for example one per view. The result contains the first row of every image, then
    the second row of every image, and so on.
    """

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, group: ProcessGroup, batch_size: int) -> Tensor:
        slices = [group.local_slice(batch_size, rank) for rank in range(group.world_size)]
        sizes = [images.stop - images.start for images in slices]
        ctx.local_slice, ctx.batch_size, ctx.world_size = slices[group.rank], batch_size, group.world_size
        local_GmD = rows_ND.reshape(-1, sizes[group.rank], rows_ND.shape[1])
        # all_gather needs tensors of equal size, so smaller parts are padded.
        padded_GmD = local_GmD.new_zeros(len(local_GmD), max(sizes), local_GmD.shape[2])
        padded_GmD[:, : local_GmD.shape[1]] = local_GmD
        parts = [torch.empty_like(padded_GmD) for _ in sizes]
        dist.all_gather(parts, padded_GmD)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], 1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        # The gradients are the same in all processes, so summing them requires no communication.
        grad_GMD = grad_ND.reshape(-1, ctx.batch_size, grad_ND.shape[1])
        return (grad_GMD[:, ctx.local_slice] * ctx.world_size).flatten(0, 1), None, None
