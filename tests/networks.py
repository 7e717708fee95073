"""Backbones and images for tests."""

import torch
from torch import Tensor, nn

from rr import backbones


def random_backbone(name: str, image_size: int | None = None) -> backbones.Backbone:
    """Return a backbone in eval mode whose batch norms have random parameters and statistics."""
    torch.manual_seed(0)
    backbone = backbones.build(name, image_size)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return backbone.eval()


def random_images(B: int, image_size: int) -> Tensor:
    """Return normally distributed images. The same arguments always produce the same images."""
    return torch.randn((B, 3, image_size, image_size), generator=torch.Generator().manual_seed(image_size))
