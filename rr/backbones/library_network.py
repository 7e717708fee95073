"""Backbones that wrap a torchvision or timm network without its classifier."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from rr.backbones.base import Backbone
from rr.errors import UserError
from rr.params.backbones import TIMM_PREFIX


class LibraryNetwork(Backbone):
    """A network with random weights for images of one size. Its representation is the input to the removed classifier.

    The weights keep the library's names. If the library's network uses dropout or stochastic depth, so does this one.
    The network is always created on the CPU.

    Args:
        name: name of a torchvision classification model, or `timm-` followed by the name of a timm model.
        image_size: side of the images in pixels.

    Raises:
        UserError: if timm has no model with that name, or if the network does not accept images of that size.
        ModuleNotFoundError: if timm is not installed.
    """

    image_size: int

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        self.name, self.image_size = name, image_size
        # Some constructors read tensor values, and tensors on the `meta` device have none.
        with torch.device("cpu"):
            try:
                if name.startswith(TIMM_PREFIX):
                    self.network = _build_timm_without_classifier(name.removeprefix(TIMM_PREFIX), image_size)
                else:
                    self.network = _build_torchvision_without_classifier(name, image_size)
                with torch.no_grad():
                    shape = self.network.eval()(torch.zeros(1, 3, image_size, image_size)).shape
                self.network.train()
                _, self.num_features = shape
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = str(error).partition("\n")[0]
                raise UserError(
                    f"the backbone {name} cannot be used with images of {image_size} x {image_size} pixels ({reason}): "
                    "choose a different backbone, or change the dataset's image_size in params.yaml"
                ) from error
        self.register_state_dict_post_hook(_remove_network_prefix)
        self.register_load_state_dict_pre_hook(_add_network_prefix)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, num_features)."""
        features: Tensor = self.network(images_B3SS.contiguous(memory_format=torch.channels_last))
        return features


def _build_torchvision_without_classifier(name: str, image_size: int) -> nn.Module:
    """Return a torchvision model whose last layer, the classifier, is replaced by the identity."""
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options = {"image_size": image_size}
    elif name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    network = models.get_model(name, weights=None, **options)
    *_, (path, _) = network.named_modules()
    parent, _, layer = path.rpartition(".")
    setattr(network.get_submodule(parent), layer, nn.Identity())
    return network


def _build_timm_without_classifier(name: str, image_size: int) -> nn.Module:
    """Return a timm model without its classifier."""
    import timm

    if not timm.is_model(name):
        matches = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean '{matches[0]}'?" if matches else "timm.list_models() in Python lists all names"
        raise UserError(f"the backbone timm-{name} is unknown: timm has no model '{name}'; {hint}")
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": image_size} if config and config.fixed_input_size else {}
    network: nn.Module = timm.create_model(name, num_classes=0, **options)
    return network


def _remove_network_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}network.")]:
        state[prefix + key.removeprefix(f"{prefix}network.")] = state.pop(key)


def _add_network_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}network.{key.removeprefix(prefix)}"] = state.pop(key)
