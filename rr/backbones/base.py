"""The base class of all backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:  # importing pydantic would add a tenth of a second to a gallery search
    from rr.params import ExtensionBackboneConfig


class Backbone(nn.Module):
    """A network that maps images (B, 3, S, S) to representations (B, num_features).

    The constructor of a user-defined backbone is called with its `Config` and the image size S.

    Attributes:
        name: name of the architecture, as in `grid.backbone` in params.yaml.
        num_features: size of a representation.
        image_size: the side S of the images for which the network was built, or None if it accepts any size.
        local_channels: number of channels of the feature maps that `forward_with_local_maps` returns. Only the
            backbones in `rr.params.backbones.BUILTIN_BACKBONES` have such maps.
        config: the params.yaml entry of a user-defined backbone; None for all others.
    """

    name: str
    num_features: int
    image_size: int | None = None
    local_channels: int
    config: ExtensionBackboneConfig | None = None

    def forward_with_local_maps(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representations and the feature maps of the first layer, (B, local_channels, H, W)."""
        raise NotImplementedError
