"""Deep InfoMax: which local activations belong to which representation? (Hjelm et al., ICLR 2019)"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import params
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Statistics

HIDDEN = 256
PRIOR_HIDDEN = (512, 128)


class InfoMax(Method):
    """Backbone, local discriminator and prior discriminator: DIM(L), as in the relational reasoning paper's code.

    One difference: there the encoder helps the prior's discriminator. Here it works against it, as Hjelm et al. mean
    it, so that representations come to look uniform in [0, 1]^D.
    """

    drop_last = True
    smallest_batch = 2
    shareable = False  # local activations meet those of other pictures

    def __init__(self, settings: params.InfoMax, backbone: nn.Module) -> None:
        """`backbone` has `local_channels`, and `forward_local` beside `forward`."""
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        self.local = LocalDiscriminator(self.features, backbone.local_channels)  # type: ignore[arg-type]
        first, second = PRIOR_HIDDEN
        self.prior = nn.Sequential(
            nn.Linear(self.features, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
        )

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """Local loss plus `prior` times the prior loss, 0-d, float32 also under autocast; labels unused.

        `drawn` is what `draw` gave: samples of the prior, float (M, D). The accuracy is the local discriminator's,
        over positives and negatives.
        """
        (uniform_MD,) = drawn
        y_MD, maps_MCHW = self.backbone.forward_local(views)  # type: ignore[operator]
        positive_MHW, negative_MHW = self.local(y_MD, maps_MCHW)
        local = tell_apart(positive_MHW, negative_MHW)
        # One optimiser serves both sides: what improves the discriminator reaches the encoder with its sign reversed.
        prior = tell_apart(self.prior(uniform_MD), self.prior(reverse_gradient(y_MD)))
        right = (positive_MHW > 0).sum() + (negative_MHW <= 0).sum()
        return local + self.settings.prior * prior, {"accuracy": (right, 2 * positive_MHW.numel())}

    def draw(self, images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Samples of the prior: uniform in [0, 1), float32 (M, D)."""
        return (torch.rand(images, self.features, generator=generator),)


class LocalDiscriminator(nn.Module):
    """1×1 convolutions (D + C) → 256 → 256 → 1 with ReLU between, on a representation joined with each position's map.

    They are held as linear layers, which have the same parameters and the same start.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.features, self.channels = features, channels
        self.joint = nn.Linear(features + channels, HIDDEN)
        self.rest = nn.Sequential(
            nn.ReLU(inplace=True), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, 1)
        )

    def forward(self, y_MD: Tensor, maps_MCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (M, H, W) of the positives (y of m, maps of m), and of the negatives (y of m, maps of m + 1).

        The negatives stand where their maps are, so row m + 1 belongs to y of m; the last y meets the first maps.
        """
        # The first layer is linear in each part, so y passes it once per image, each position's map once, and the
        # tiled concatenation is never built. Rolling y in place of the maps lets both kinds share the maps' part.
        weight_OD, weight_OC = self.joint.weight.split([self.features, self.channels], 1)
        image_M11O = F.linear(y_MD, weight_OD, self.joint.bias)[:, None, None]
        place_MHWO = F.linear(maps_MCHW.permute(0, 2, 3, 1), weight_OC)
        positive_MHW1 = self.rest(place_MHWO + image_M11O)
        negative_MHW1 = self.rest(place_MHWO + image_M11O.roll(1, 0))
        return positive_MHW1.squeeze(3), negative_MHW1.squeeze(3)


def tell_apart(true: Tensor, false: Tensor) -> Tensor:
    """-(mean log p of `true` + mean log (1 - p) of `false`) of logits of any shape; 0-d, at least float32.

    The mean softplus(-T) + mean softplus(T) of Deep InfoMax's Jensen-Shannon bound is the same thing.
    """
    return -F.logsigmoid(at_least_float32(true)).mean() - F.logsigmoid(-at_least_float32(false)).mean()


def reverse_gradient(x: Tensor) -> Tensor:
    """`x` to the bit, of any shape and float type, with the gradient -1 (Ganin & Lempitsky, ICML 2015)."""
    return 2 * x.detach() - x  # doubling is exact, hence so is the difference
