"""Networks for the tests."""

import torch
from torch import Tensor, nn

from rr import backbones


def network(name: str) -> nn.Module:
    """A network whose batch norms are not at their first values, in eval mode."""
    torch.manual_seed(0)
    backbone = backbones.build(name)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return backbone.eval()


def images(B: int, side: int) -> Tensor:
    return torch.randn((B, 3, side, side), generator=torch.Generator().manual_seed(side))
