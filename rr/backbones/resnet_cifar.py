"""The paper's ResNet-8, ResNet-32 and ResNet-56: residual networks for small pictures, 64 features.

Layout and first weights follow the authors' code (backbones/resnet_small.py) and He et al. 2016, section 4.2, with a
projection where the shape changes. Modules bear torchvision's names, so the authors' checkpoints fit by name.
"""

import torch
from torch import Tensor, nn

CHANNELS = (16, 32, 64)  # of the three stages


class CifarResNet(nn.Module):
    """A 3×3 convolution, then three stages of (depth - 2) / 6 basic blocks each, then the mean over all positions.

    Convolutions start from N(0, 2 / (k² · out_channels)), batch norms at one and zero.
    """

    features = CHANNELS[-1]
    local_channels = CHANNELS[0]

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.name = f"resnet{depth}"
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.layer1 = _stage(CHANNELS[0], CHANNELS[0], blocks, stride=1)
        self.layer2 = _stage(CHANNELS[0], CHANNELS[1], blocks, stride=2)
        self.layer3 = _stage(CHANNELS[1], CHANNELS[2], blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, 64) of the same type."""
        return self.forward_local(images_B3SS)[0]

    def forward_local(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """The representation (B, 64), and the activation (B, 16, S, S) after the first convolution, norm and ReLU."""
        images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
        maps_BCSS = self.bn1(self.conv1(images_B3SS)).relu()
        out_BCHW = self.layer3(self.layer2(self.layer1(maps_BCSS)))
        return out_BCHW.mean((2, 3)), maps_BCSS


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norms, added to the input, which is projected where its shape differs."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()  # empty: the input itself
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        residual_BCHW = self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW)).relu()))
        return (residual_BCHW + self.downsample(x_BCHW)).relu()


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` basic blocks, of which the first changes the shape."""
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride), *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    )
