"""Deep InfoMax: match local activations with the representation of their image (Hjelm et al., ICLR 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.params import InfoMaxConfig

HIDDEN_DIM = 256
PRIOR_HIDDEN_DIMS = (512, 128)


class InfoMax(Method):
    """Train a backbone, a local discriminator and a prior discriminator: DIM(L), as in the paper's code.

    It differs from that code in one respect: there, the encoder helps the prior discriminator. Here, the encoder is
    trained against the prior discriminator, as in Hjelm et al., so that the distribution of the representations becomes
    uniform in [0, 1]^D.
    """

    supports_data_parallel = False  # the local discriminator pairs each image with another image's feature map

    def __init__(self, config: InfoMaxConfig, backbone: Backbone) -> None:
        """Create both discriminators."""
        super().__init__(backbone, config.learning_rate)
        self.config = config
        self.local_discriminator = LocalDiscriminator(self.features, backbone.local_channels)
        dim_1, dim_2 = PRIOR_HIDDEN_DIMS
        self.prior_discriminator = nn.Sequential(
            nn.Linear(self.features, dim_1), nn.ReLU(), nn.Linear(dim_1, dim_2), nn.ReLU(), nn.Linear(dim_2, 1)
        )

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the local loss plus `prior_weight` times the prior loss, in at least float32 even under autocast.

        The accuracy is that of the local discriminator over positive and negative pairs.
        """
        (prior_MD,) = random_inputs
        y_MD, maps_MCHW = self.backbone.forward_with_local_maps(views)
        positive_MHW, negative_MHW = self.local_discriminator(y_MD, maps_MCHW)
        local_loss = jsd_loss(positive_MHW, negative_MHW)
        # One optimizer minimizes this loss for both networks, so the encoder receives the negated prior gradient.
        prior_loss = jsd_loss(self.prior_discriminator(prior_MD), self.prior_discriminator(reverse_gradient(y_MD)))
        correct = (positive_MHW > 0).sum() + (negative_MHW <= 0).sum()
        return local_loss + self.config.prior_weight * prior_loss, {"accuracy": (correct, 2 * positive_MHW.numel())}

    def sample_random_inputs(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return M samples of the prior, which is uniform in [0, 1)^D: float32 (M, D)."""
        return (torch.rand(num_images, self.features, generator=generator),)


class LocalDiscriminator(nn.Module):
    """Score how well each position of a local feature map matches a representation.

    The network consists of 1×1 convolutions (D + C) → 256 → 256 → 1 with ReLU in between. Its input is a representation
    concatenated with the feature map at each position. The convolutions are implemented as linear layers, which have
    the same parameters and the same initialization.
    """

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.features, self.channels = features, channels
        self.first_layer = nn.Linear(features + channels, HIDDEN_DIM)
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True), nn.Linear(HIDDEN_DIM, HIDDEN_DIM), nn.ReLU(inplace=True), nn.Linear(HIDDEN_DIM, 1)
        )

    def forward(self, y_MD: Tensor, maps_MCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of positive and negative pairs, (M, H, W) each.

        A positive pair is the representation y of image m and the map of image m. A negative pair is y of image m and
        the map of image m + 1 (for the last image, the first map). The logits of a negative pair are in the row of its
        map, so row m + 1 contains the logits for y of image m.
        """
        # The first layer is linear in y and in the maps. It is applied to y once per image and to the maps once per
        # position, so the tiled concatenation is never built. y is rolled instead of the maps, so that positives and
        # negatives share the result for the maps.
        weight_OD, weight_OC = self.first_layer.weight.split([self.features, self.channels], 1)
        image_M11O = F.linear(y_MD, weight_OD, self.first_layer.bias)[:, None, None]
        position_MHWO = F.linear(maps_MCHW.permute(0, 2, 3, 1), weight_OC)
        positive_MHW1 = self.layers(position_MHWO + image_M11O)
        negative_MHW1 = self.layers(position_MHWO + image_M11O.roll(1, 0))
        return positive_MHW1.squeeze(3), negative_MHW1.squeeze(3)


def jsd_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return the loss of a discriminator whose probability p should be high for positives and low for negatives.

    It is -(mean log p(positive) + mean log (1 - p(negative))) for logits T of any shape. This equals the mean
    softplus(-T) of positives plus the mean softplus(T) of negatives, the Jensen-Shannon bound of Deep InfoMax.

    Returns:
        The loss, 0-d, at least float32.
    """
    return (
        -F.logsigmoid(at_least_float32(positive_logits)).mean()
        - F.logsigmoid(-at_least_float32(negative_logits)).mean()
    )


def reverse_gradient(x: Tensor) -> Tensor:
    """Return `x` unchanged, and multiply its gradient by -1 (Ganin and Lempitsky, ICML 2015)."""
    return 2 * x.detach() - x  # exact: doubling only changes the exponent
