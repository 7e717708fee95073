"""Deep InfoMax: match local activations with the representation of their image (Hjelm et al., ICLR 2019)."""

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.methods.local_discriminator import LocalDiscriminator, jsd_loss
from rr.params import InfoMaxConfig

PRIOR_HIDDEN_DIMS = (512, 128)


class InfoMax(Method):
    """Train a backbone, a local discriminator and a prior discriminator with DIM(L), as in the paper's code.

    This class differs from that code in one respect: there, the encoder helps the prior discriminator. Here, the
    encoder is trained against the prior discriminator, as in Hjelm et al., so that the distribution of the
    representations becomes uniform in [0, 1]^D.
    """

    supports_data_parallel = False  # the local discriminator pairs each image with another image's feature map

    def __init__(self, config: InfoMaxConfig, backbone: Backbone) -> None:
        """Create both discriminators."""
        super().__init__(backbone)
        self.config = config
        self.local_discriminator = LocalDiscriminator(self.num_features, backbone.local_channels)
        dim_1, dim_2 = PRIOR_HIDDEN_DIMS
        self.prior_discriminator = nn.Sequential(
            nn.Linear(self.num_features, dim_1), nn.ReLU(), nn.Linear(dim_1, dim_2), nn.ReLU(), nn.Linear(dim_2, 1)
        )

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the local loss plus `prior_weight` times the prior loss, in at least float32 even under autocast.

        The accuracy is the fraction of positive and negative pairs that the local discriminator classifies correctly.
        """
        (prior_MD,) = random_inputs
        y_MD, maps_MCHW = self.backbone.forward_with_local_maps(views)
        local_loss, num_correct = self.local_discriminator.loss(y_MD, maps_MCHW)
        # One optimizer minimizes this loss for both networks, so the encoder receives the negated prior gradient.
        prior_loss = jsd_loss(self.prior_discriminator(prior_MD), self.prior_discriminator(reverse_gradient(y_MD)))
        num_pairs = 2 * maps_MCHW[:, 0].numel()
        return local_loss + self.config.prior_weight * prior_loss, {"accuracy": (num_correct, num_pairs)}

    def sample_random_inputs(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return M samples of the prior, which is uniform in [0, 1)^D: float32 (M, D)."""
        return (torch.rand(num_images, self.num_features, generator=generator),)


def reverse_gradient(x: Tensor) -> Tensor:
    """Return `x` unchanged, and multiply its gradient by -1 (Ganin and Lempitsky, ICML 2015)."""
    return 2 * x.detach() - x  # exact: doubling only changes the exponent
