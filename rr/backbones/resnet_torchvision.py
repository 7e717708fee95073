"""torchvision's ResNets without their classifiers. The paper's large backbone is resnet34 (512 features)."""

import torch
from torch import Tensor, nn
from torchvision import models

from rr.backbones.base import Backbone


class TorchvisionResNet(Backbone):
    """The layers of `torchvision.models.<name>` except the classifier, with torchvision's names and random weights.

    `num_features` is 512 for networks with basic blocks and 2048 for networks with bottleneck blocks. If the name ends
    with `-cifar`, the first convolution is 3×3 without stride, and there is no max pooling, as is common for small
    images.

    Raises:
        ValueError: if torchvision has no model with that name.
    """

    local_channels = 64

    def __init__(self, name: str) -> None:
        super().__init__()
        network = models.get_model(name.removesuffix("-cifar"), weights=None)
        if name.endswith("-cifar"):
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision
            del network.maxpool
        self.name = name
        self.num_features = network.fc.in_features
        for layer_name, layer in network.named_children():
            if layer_name != "fc":
                self.add_module(layer_name, layer)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, num_features) with the same dtype."""
        return self.forward_with_local_maps(images_B3SS)[0]

    def forward_with_local_maps(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representation (B, num_features) and the feature maps (B, 64, H, W) before max pooling.

        H = W = ⌈S / 2⌉, or S if the name ends with `-cifar`.
        """
        x = maps_BCHW = images_B3SS.contiguous(memory_format=torch.channels_last)
        for layer_name, layer in self.named_children():
            x = layer(x)
            if layer_name == "relu":
                maps_BCHW = x
        return x.flatten(1), maps_BCHW
