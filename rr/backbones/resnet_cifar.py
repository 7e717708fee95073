"""The paper's ResNet-8, ResNet-32 and ResNet-56: residual networks for small images, with 64 features.

Architecture and initialization follow the authors' code (backbones/resnet_small.py) and He et al. 2016, section 4.2. If
the output of a block differs in shape from its input, a 1×1 convolution projects the input. The modules have
torchvision's names, so the parameter names match those in the authors' checkpoints.
"""

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.backbones.padded_conv2d import PaddedConv2d

CHANNELS = (16, 32, 64)  # of the three stages


class CifarResNet(Backbone):
    """A 3×3 convolution, three stages of (depth - 2) / 6 basic blocks each, and global average pooling.

    Convolution weights are initialized from N(0, 2 / (k² · out_channels)), batch norm weights to one and batch norm
    biases to zero.
    """

    num_features = CHANNELS[-1]
    local_channels = CHANNELS[0]

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.name = f"resnet{depth}"
        num_blocks = (depth - 2) // 6
        self.conv1 = PaddedConv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.layer1 = _make_layer(CHANNELS[0], CHANNELS[0], num_blocks, stride=1)
        self.layer2 = _make_layer(CHANNELS[0], CHANNELS[1], num_blocks, stride=2)
        self.layer3 = _make_layer(CHANNELS[1], CHANNELS[2], num_blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, 64) with the same dtype."""
        return self.forward_with_local_maps(images_B3SS)[0]

    def forward_with_local_maps(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representation (B, 64) and the feature maps (B, 16, S, S) after the first convolution block."""
        images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
        maps_BCSS = self.bn1(self.conv1(images_B3SS)).relu()
        out_BCHW = self.layer3(self.layer2(self.layer1(maps_BCSS)))
        return out_BCHW.mean((2, 3)), maps_BCSS


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norms, whose output is added to the (projected) input."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = PaddedConv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = PaddedConv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()  # the identity
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                PaddedConv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        residual_BCHW = self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW)).relu()))
        return (residual_BCHW + self.downsample(x_BCHW)).relu()


def _make_layer(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    """Return a stage of basic blocks; only the first block changes the shape."""
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride),
        *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)),
    )
