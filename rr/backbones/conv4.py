"""Conv-4, the paper's small backbone (24,648 parameters, 64 features)."""

import torch
from torch import Tensor, nn

CHANNELS = (3, 8, 16, 32, 64)
PLANAR_BLOCKS = 2  # with more channels, torch's convolutions are the faster ones


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, batch norm, ReLU and pooling; the last pooling is global.

    Convolutions start from N(0, 2 / (k² · out_channels)), batch norms at one and zero, as in the authors' code.
    """

    name = "conv4"
    features = CHANNELS[-1]
    local_channels = CHANNELS[1]

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
        """Map (B, 3, S, S), S ≥ 8, to (B, 64).

        Training in float32 on a CPU takes the fused form, whose result has first derivatives only and which does not
        call hooks of the layers; everything else takes the plain one.
        """
        images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
        if self.training and self._can_fuse(images_B3SS):
            return self._fused_forward(images_B3SS)
        return self.plain_forward(images_B3SS)

    def plain_forward(self, images_B3SS: Tensor) -> Tensor:
        """The layers one after the other, for any device and type: what the fused form is tested against."""
        return self.blocks(images_B3SS).flatten(1)

    def forward_local(self, images_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """The representation (B, 64), and the activation (B, 8, S, S) of the first block before its pooling.

        Always the plain layers: the fused form never holds that activation.
        """
        images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
        first = self.blocks[0]
        maps_BCSS = first[:-1](images_B3SS)  # type: ignore[index]
        return self.blocks[1:](first[-1](maps_BCSS)).flatten(1), maps_BCSS  # type: ignore[index]

    def _fused_forward(self, images_B3SS: Tensor) -> Tensor:
        from rr.backbones import fused

        x = images_B3SS
        last = len(self.blocks) - 1
        for number, (convolution, norm) in enumerate(self._layers()):
            if number < PLANAR_BLOCKS:
                x = fused.convolve_norm_pool(x, convolution, norm)
            else:
                conv = convolution(x)
                x = fused.norm_pool(conv, norm, (2, 2) if number < last else (conv.shape[2], conv.shape[3]))
        return x.flatten(1)

    def _can_fuse(self, images_B3SS: Tensor) -> bool:
        """Whether the fused form applies; a batch the plain form refuses is left to it, for its error."""
        if images_B3SS.device.type != "cpu":
            return False
        from rr.backbones import fused  # loads numba, which only training on a CPU needs

        B, channels, H, W = images_B3SS.shape
        smallest = 2 ** (len(self.blocks) - 1)
        accepted = channels == CHANNELS[0] and B * (H // smallest) * (W // smallest) > 1
        return accepted and fused.usable(images_B3SS, self._layers())

    def _layers(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(block[0], block[1]) for block in self.blocks]  # type: ignore[index]
