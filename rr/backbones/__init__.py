"""Backbones: image (B, 3, S, S) in, representation (B, features) out, for any side S.

Each also has `name`; `forward_local`, which gives the first layer's activation maps beside the representation; and
`local_channels`, the maps' number of channels.
"""

from typing import get_args

from torch import nn


def build(name: str) -> nn.Module:
    """Create a freshly initialised backbone; torch's global generator decides its weights.

    `name` is one of `rr.params.Backbone`; ValueError otherwise.
    """
    match name:
        case "conv4":
            from rr.backbones.conv4 import Conv4

            return Conv4()
        case "resnet8" | "resnet32" | "resnet56":
            from rr.backbones.resnet_cifar import CifarResNet

            return CifarResNet(int(name.removeprefix("resnet")))
        case _:
            from rr.params import Backbone  # loads pydantic, which the small backbones do without

            if name in get_args(Backbone):
                from rr.backbones.resnet_torchvision import TorchvisionResNet

                return TorchvisionResNet(name)
    raise ValueError(f"no backbone is called {name!r}")
