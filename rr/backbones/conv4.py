"""Conv-4, the paper's small backbone (24,648 parameters, 64 features)."""

from typing import cast

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.backbones.padded_conv2d import PaddedConv2d
from rr.compute.plain_layers import is_plain

CHANNELS = (3, 8, 16, 32, 64)
NUM_FUSED_CONVS = 2  # the first blocks also fuse the convolution; with more channels, torch is faster


class Conv4(Backbone):
    """Four blocks of 3×3 convolution, batch norm, ReLU and average pooling; the last pooling is global.

    Convolution weights are initialized from N(0, 2 / (k² · out_channels)), batch norm weights to one and batch norm
    biases to zero, as in the authors' code.
    """

    name = "conv4"
    num_features = CHANNELS[-1]
    local_channels = CHANNELS[1]

    def __init__(self) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    PaddedConv2d(in_channels, out_channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                    pool,
                )
                for in_channels, out_channels, pool in zip(CHANNELS, CHANNELS[1:], pools, strict=False)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (9 * module.out_channels)) ** 0.5)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map (B, 3, S, S) with S ≥ 8 to (B, 64).

        Unless layers have been replaced or have hooks, training in float32 on a CPU uses fused layers. These support
        only first derivatives.
        """
        if self.training and self._can_fuse(images_B3SS):
            return self._forward_fused(images_B3SS)
        return self.forward_unfused(images_B3SS)

    def forward_unfused(self, images_B3SS: Tensor) -> Tensor:
        """Call the layers one by one, on any device and for any dtype. Tests compare the fused layers with them."""
        return self.blocks(images_B3SS.contiguous(memory_format=torch.channels_last)).flatten(1)

    def forward_with_local_maps(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representation (B, 64) and the feature maps (B, 8, S, S) of the first block before pooling.

        This method uses the unfused layers, because the fused ones do not store these feature maps.
        """
        images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
        first_block = cast(nn.Sequential, self.blocks[0])
        maps_BCSS = first_block[:-1](images_B3SS)
        return self.blocks[1:](first_block[-1](maps_BCSS)).flatten(1), maps_BCSS

    def _forward_fused(self, images_B3SS: Tensor) -> Tensor:
        from rr.backbones import fused_block

        x = images_B3SS
        last = len(self.blocks) - 1
        for i, (conv, norm) in enumerate(self._conv_norm_layers()):
            if i < NUM_FUSED_CONVS:
                x = fused_block.conv_bn_relu_pool_train(x, conv, norm)
            else:
                out = conv(x.contiguous(memory_format=torch.channels_last))
                x = fused_block.bn_relu_pool_train(out, norm, (2, 2) if i < last else (out.shape[2], out.shape[3]))
        return x.flatten(1)

    def _can_fuse(self, images_B3SS: Tensor) -> bool:
        """Return whether the fused layers can be used.

        Invalid shapes are left to the unfused layers, which raise an error.
        """
        if images_B3SS.device.type != "cpu" or not self._has_original_layers():
            return False
        from rr.backbones import fused_block  # imports numba, which is needed only for training on a CPU

        B, channels, H, W = images_B3SS.shape
        stride = 2 ** (len(self.blocks) - 1)
        is_valid = channels == CHANNELS[0] and B * (H // stride) * (W // stride) > 1
        return is_valid and fused_block.can_fuse(images_B3SS, self._conv_norm_layers())

    def _has_original_layers(self) -> bool:
        """Return whether all layers are those that `__init__` creates, and have no hooks."""
        for i, block in enumerate(self.blocks):
            layers, is_last = tuple(block.children()), i == len(self.blocks) - 1
            kinds = (PaddedConv2d, nn.BatchNorm2d, nn.ReLU, nn.AdaptiveAvgPool2d if is_last else nn.AvgPool2d)
            if len(layers) != len(kinds) or not all(map(is_plain, layers, kinds)):
                return False
            conv, pool = cast(nn.Conv2d, layers[0]), layers[-1]
            if not (
                (conv.in_channels, conv.out_channels) == CHANNELS[i : i + 2]
                and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
                and (conv.groups, conv.bias, conv.padding_mode) == (1, None, "zeros")
                and (pool.output_size == 1 if is_last else (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0))
            ):
                return False
        return True

    def _conv_norm_layers(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(block.children())[:2]) for block in self.blocks]
