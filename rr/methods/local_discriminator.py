"""Deep InfoMax's local discriminator and its loss. On a CPU, the loss is computed in tiles that fit in the cache."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rr.compute.minimum_precision import at_least_float32
from rr.compute.thread_pool import parallel_for
from rr.compute.torch_threads import single_threaded

HIDDEN_DIM = 256
_TILE_POSITIONS = 512  # positions per tile; a tile's activations take 1 MB
_MAX_GROUPS = 16  # maximum number of groups of images; each group has its own sums of the weight gradients
_MIN_CHUNKS = 16  # with one thread, torch uses oneDNN for a 1×1 convolution only if there are at least 16 images


class LocalDiscriminator(nn.Module):
    """Score how well each position of a local feature map matches a representation.

    The network consists of 1×1 convolutions (D + C) → 256 → 256 → 1 with ReLU in between. Its input is a representation
    concatenated with the feature map at each position. The convolutions are implemented as linear layers, which have
    the same parameters and the same initialization.
    """

    def __init__(self, num_features: int, channels: int) -> None:
        super().__init__()
        self.num_features, self.channels = num_features, channels
        self.first_layer = nn.Linear(num_features + channels, HIDDEN_DIM)
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True), nn.Linear(HIDDEN_DIM, HIDDEN_DIM), nn.ReLU(inplace=True), nn.Linear(HIDDEN_DIM, 1)
        )

    def forward(self, y_MD: Tensor, maps_MCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of positive and negative pairs, (M, H, W) each.

        A positive pair is the representation y of image m and the map of image m. A negative pair is y of image m and
        the map of image m + 1 (for the last image, the first map). The logits of a negative pair are in the row of its
        map, so row m + 1 contains the logits for y of image m.
        """
        # The first layer is linear in y and in the maps. It is applied to y once per image and to the maps once per
        # position, so the concatenation is never built. y is rolled instead of the maps, so that positives and
        # negatives share the result for the maps.
        weight_OD, weight_OC = self.first_layer.weight.split([self.num_features, self.channels], 1)
        image_M11O = F.linear(y_MD, weight_OD, self.first_layer.bias)[:, None, None]
        position_MHWO = F.linear(maps_MCHW.permute(0, 2, 3, 1), weight_OC)
        positive_MHW1 = self.layers(position_MHWO + image_M11O)
        negative_MHW1 = self.layers(position_MHWO + image_M11O.roll(1, 0))
        return positive_MHW1.squeeze(3), negative_MHW1.squeeze(3)

    def loss(self, y_MD: Tensor, maps_MCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss (see `jsd_loss`), 0-d, at least float32, and the number of correctly classified pairs."""
        if _can_use_tiles(y_MD, maps_MCHW):
            weight_OD, weight_OC = self.first_layer.weight.split([self.num_features, self.channels], 1)
            images_MO = F.linear(y_MD, weight_OD, self.first_layer.bias)
            images_M2O = torch.stack((images_MO, images_MO.roll(1, 0)), 1)
            maps_MPC = maps_MCHW.permute(0, 2, 3, 1).flatten(1, 2)
            loss, num_correct = _TiledLoss.apply(images_M2O, maps_MPC, weight_OC, *self.layers.parameters())
            return loss, num_correct
        positive_MHW, negative_MHW = self(y_MD, maps_MCHW)
        return jsd_loss(positive_MHW, negative_MHW), (positive_MHW > 0).sum() + (negative_MHW <= 0).sum()


def jsd_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return the loss of a discriminator whose probability p should be high for positives and low for negatives.

    The loss is -(mean log p(positive) + mean log (1 - p(negative))) for logits T of any shape. This equals the mean
    softplus(-T) of positives plus the mean softplus(T) of negatives, which is the negative of Deep InfoMax's
    Jensen-Shannon bound.

    Returns:
        The loss, 0-d, at least float32.
    """
    return (
        -F.logsigmoid(at_least_float32(positive_logits)).mean()
        - F.logsigmoid(-at_least_float32(negative_logits)).mean()
    )


def _can_use_tiles(y_MD: Tensor, maps_MCHW: Tensor) -> bool:
    """Return whether `_TiledLoss` supports these tensors. On a GPU, the activations would not fit in a cache."""
    return (
        y_MD.device.type == "cpu"
        and y_MD.dtype == maps_MCHW.dtype
        and y_MD.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _TiledLoss(torch.autograd.Function):
    """The loss of the local discriminator. The forward pass also computes the gradients, tile by tile.

    The loss is a mean over positions, so the gradients for a tile of positions depend only on that tile. The tile's
    activations stay in the cache. Storing the activations of all positions until the backward pass would take 134 MB
    per layer for the positive pairs, and as much for the negative pairs (with 128 maps of 32 × 32 positions).

    The tiles, and the order in which gradients are added, do not depend on the number of threads. The results are
    therefore bit-identical for any number of threads.
    """

    @staticmethod
    def forward(ctx: Any, images_M2O: Tensor, maps_MPC: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the number of correct predictions. See `_tile_loss_and_num_correct` for the arguments."""
        M, P, _ = maps_MPC.shape
        num_groups = min(M, _MAX_GROUPS)
        losses, correct = images_M2O.new_zeros(num_groups), torch.zeros(num_groups, dtype=torch.int64)
        grad_images, grad_maps = torch.zeros_like(images_M2O), torch.empty_like(maps_MPC)
        grad_weights = [weight.new_zeros(num_groups, *weight.shape) for weight in weights]

        def process_image_groups(start: int, stop: int) -> None:
            torch.set_num_threads(1)  # each thread in the pool has its own setting
            for group in range(start, stop):
                for m in range(M * group // num_groups, M * (group + 1) // num_groups):
                    for first in range(0, P, _TILE_POSITIONS):
                        tile = m, slice(first, first + _TILE_POSITIONS)
                        inputs = [t.detach().requires_grad_() for t in (images_M2O[m], maps_MPC[tile], *weights)]
                        with torch.enable_grad():
                            loss, num_correct = _tile_loss_and_num_correct(*inputs)
                        grad_image, grad_maps[tile], *grads = torch.autograd.grad(loss, inputs)
                        grad_images[m] += grad_image
                        for total, grad in zip(grad_weights, grads, strict=True):
                            total[group] += grad
                        losses[group] += loss.detach()
                        correct[group] += num_correct

        num_threads = torch.get_num_threads()
        with single_threaded():
            parallel_for(process_image_groups, num_groups, num_threads)
            ctx.save_for_backward(grad_images, grad_maps, *(total.sum(0) for total in grad_weights))
        ctx.num_positions = M * P
        num_correct = correct.sum()
        ctx.mark_non_differentiable(num_correct)
        return losses.sum() / ctx.num_positions, num_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs of `forward`."""
        scale = grad_loss / ctx.num_positions
        return tuple(scale * gradient for gradient in ctx.saved_tensors)


def _tile_loss_and_num_correct(
    images_2O: Tensor,
    maps_TC: Tensor,
    weight_OC: Tensor,
    weight_OO: Tensor,
    bias_O: Tensor,
    weight_1O: Tensor,
    bias_1: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses over the positions of a tile, and the number of correctly classified pairs.

    Args:
        images_2O: the first layer's output for the representations of the positive and the negative pair.
        maps_TC: an image's feature map at T positions.
        weight_OC: weight of the first layer for feature maps.
        weight_OO: weight of the second layer.
        bias_O: bias of the second layer.
        weight_1O: weight of the last layer.
        bias_1: bias of the last layer.
    """
    hidden_2TO = (images_2O[:, None] + F.linear(maps_TC, weight_OC)).relu_()
    # If this product is written as a convolution, oneDNN computes it, which is twice as fast as torch's BLAS on some
    # processors. The positions are divided into N chunks of X positions, which take the place of images.
    num_chunks = _MIN_CHUNKS if 2 * len(maps_TC) % _MIN_CHUNKS == 0 else 2
    hidden_NO1X = hidden_2TO.view(num_chunks, -1, HIDDEN_DIM).transpose(1, 2)[:, :, None]  # channels last
    second_NO1X = F.conv2d(hidden_NO1X, weight_OO[:, :, None, None], bias_O).relu_()
    second_2TO = second_NO1X.squeeze(2).transpose(1, 2).reshape_as(hidden_2TO)
    positive_T, negative_T = F.linear(second_2TO, weight_1O, bias_1).squeeze(2)
    loss = -F.logsigmoid(positive_T).sum() - F.logsigmoid(-negative_T).sum()
    return loss, (positive_T > 0).sum() + (negative_T <= 0).sum()
