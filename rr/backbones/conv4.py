"""Conv-4, the paper's small backbone (24,648 parameters, 64 features)."""

from torch import Tensor, nn

CHANNELS = (3, 8, 16, 32, 64)


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, batch norm, ReLU and pooling; the last pooling is global.

    Convolutions start from N(0, 2 / (k² · out_channels)), batch norms at one and zero, as in the authors' code.
    """

    features = CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), pool
                )
                for inputs, outputs, pool in zip(CHANNELS, CHANNELS[1:], pools, strict=False)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (9 * module.out_channels)) ** 0.5)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Map (B, 3, S, S), S ≥ 8, to (B, 64)."""
        return self.blocks(images_B3SS).flatten(1)
