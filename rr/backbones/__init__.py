"""Backbones: networks that map images (B, 3, S, S) of any size S to representations (B, features)."""

from typing import get_args

from rr.backbones.base import Backbone


def build(name: str) -> Backbone:
    """Create a backbone with random weights, which depend on torch's global random state.

    Args:
        name: one of `rr.params.BackboneName`.

    Raises:
        ValueError: if the name is unknown.
    """
    match name:
        case "conv4":
            from rr.backbones.conv4 import Conv4

            return Conv4()
        case "resnet8" | "resnet32" | "resnet56":
            from rr.backbones.resnet_cifar import CifarResNet

            return CifarResNet(int(name.removeprefix("resnet")))
        case _:
            from rr.params import BackboneName  # imports pydantic, which the small backbones do not need

            if name in get_args(BackboneName):
                from rr.backbones.resnet_torchvision import TorchvisionResNet

                return TorchvisionResNet(name)
    raise ValueError(f"unknown backbone {name!r}; use one of {', '.join(get_args(BackboneName))}")
