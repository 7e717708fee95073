"""The base class of all backbones."""

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that maps images (B, 3, S, S) of any size S to representations (B, features).

    Attributes:
        name: name of the architecture, as in `rr.params.BackboneName`.
        features: size of a representation.
        local_channels: number of channels of the feature maps that `forward_with_local_maps` returns.
    """

    name: str
    features: int
    local_channels: int

    def forward_with_local_maps(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representations and the feature maps of the first layer, (B, local_channels, H, W)."""
        raise NotImplementedError
