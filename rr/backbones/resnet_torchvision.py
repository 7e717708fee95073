"""torchvision's ResNets without their classifier; the paper's large backbone is resnet34 (512 features)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models


class TorchvisionResNet(nn.Sequential):
    """The layers of `torchvision.models.<name>` up to the global pooling, under torchvision's names, untrained.

    `features` is 512 with basic blocks and 2048 with bottlenecks. Raises ValueError for a name torchvision lacks.
    """

    local_channels = 64

    def __init__(self, name: str) -> None:
        network = models.get_model(name, weights=None)
        super().__init__(OrderedDict((part, layer) for part, layer in network.named_children() if part != "fc"))
        self.name = name
        self.features: int = network.fc.in_features

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, features) of the same type."""
        return self.forward_local(images_B3SS)[0]

    def forward_local(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """The representation (B, features), and the activation (B, 64, ⌈S / 2⌉, ⌈S / 2⌉) before the first pooling."""
        x = maps_BCHW = images_B3SS.contiguous(memory_format=torch.channels_last)
        for part, layer in self.named_children():
            x = layer(x)
            if part == "relu":
                maps_BCHW = x
        return x.flatten(1), maps_BCHW
