"""Random weights: the lower bound of every table."""

from torch import nn


class RandomWeights(nn.Module):
    """A backbone that is never trained."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
