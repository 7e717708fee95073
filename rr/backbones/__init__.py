"""Backbones: networks that map images (B, 3, S, S) to representations (B, num_features)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rr.backbones.base import Backbone
from rr.errors import UserError

if TYPE_CHECKING:  # importing pydantic would add a tenth of a second to a gallery search
    from rr.params import ExtensionBackboneConfig


def build(name: str, image_size: int | None = None, config: ExtensionBackboneConfig | None = None) -> Backbone:
    """Create a backbone with random weights, which depend on torch's global random state.

    Args:
        name: a name that `rr.params.backbones.is_known_backbone` accepts, or the name of a user-defined backbone.
        image_size: side of the images in pixels. Backbones that are not in `rr.params.backbones.BUILTIN_BACKBONES` are
            built for a single size.
        config: the params.yaml entry of a user-defined backbone, or None.

    Raises:
        ValueError: if the name is unknown, or if the image size is missing.
        UserError: if timm has no model with that name, if the backbone does not accept images of that size, or if a
            user-defined backbone does not define `num_features` or has tensors with reserved names.
    """
    match name:
        case _ if config:  # a user-defined backbone
            from rr.params.extensions import load_class

            backbone: Backbone = load_class(config.kind)(config, image_size)
            backbone.name, backbone.image_size, backbone.config = name, image_size, config
            _check_attributes(backbone, config.kind)
            return backbone
        case "conv4":
            from rr.backbones.conv4 import Conv4

            return Conv4()
        case "resnet8" | "resnet32" | "resnet56":
            from rr.backbones.resnet_cifar import CifarResNet

            return CifarResNet(int(name.removeprefix("resnet")))
    from rr.params.backbones import BUILTIN_BACKBONES, check_backbone_name  # imports pydantic

    check_backbone_name(name)
    if name in BUILTIN_BACKBONES:
        from rr.backbones.resnet_torchvision import TorchvisionResNet

        return TorchvisionResNet(name)
    if image_size is None:
        raise ValueError(f"the backbone {name} is built for one image size, so image_size is required")
    from rr.backbones.library_network import LibraryNetwork

    return LibraryNetwork(name, image_size)


def check_output(backbone: Backbone, kind: str, image_size: int, device: str) -> None:
    """Raise UserError if a user-defined backbone, on `device`, does not return representations (B, num_features)."""
    import torch

    was_training = backbone.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        output: object = backbone.eval()(torch.zeros(2, 3, image_size, image_size, device=device))
    backbone.train(was_training)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (2, backbone.num_features):
        what = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(
            f"{kind}: for 2 images, the output must have shape (2, num_features) = (2, {backbone.num_features}), got "
            f"{what}"
        )


def _check_attributes(backbone: Backbone, kind: str) -> None:
    """Raise UserError if a user-defined backbone lacks `num_features`, or has tensors with names that rr uses."""
    from rr.backbones.weights import LAYER_PREFIXES

    for name in backbone.state_dict():
        if name.startswith(LAYER_PREFIXES):
            raise UserError(
                f"{kind}: the attribute name {name.partition('.')[0]} is reserved for a layer that rr saves with the "
                "backbone: rename the attribute"
            )
    value = getattr(backbone, "num_features", None)
    if not isinstance(value, int):
        problem = "does not define num_features" if value is None else f"defines num_features as {value!r}"
        renamed = (
            "; its attribute features must be renamed to num_features"
            if isinstance(getattr(backbone, "features", None), int)
            else ""
        )
        raise UserError(f"{kind} {problem}: set it to the size of a representation, an int{renamed}")
