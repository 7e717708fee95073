"""VICReg: variance, invariance and covariance terms of two views (Bardes, Ponce and LeCun, ICLR 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rr.backbones.base import Backbone
from rr.compute.minimum_precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_projector
from rr.methods.similarity import check_view_shapes, count_nearest_matches
from rr.params import VICRegConfig

EPSILON = 1e-4  # added to the variance, because the derivative of its square root is infinite at 0


class VICReg(Method):
    """Train a backbone and a projector with the `vicreg_loss` of two views."""

    def __init__(self, config: VICRegConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.config = config
        self.projector = build_projector(self.num_features, config)

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the `vicreg_loss` of both views, which pass through the networks as one batch."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        weights = self.config.invariance_weight, self.config.variance_weight, self.config.covariance_weight
        return vicreg_loss(first_MD, second_MD, *weights), {"accuracy": count_nearest_matches(first_MD, second_MD)}


def vicreg_loss(
    first_MD: Tensor, second_MD: Tensor, invariance_weight: float, variance_weight: float, covariance_weight: float
) -> Tensor:
    """Return the weighted sum of the invariance, variance and covariance terms (equation 6).

    The terms are computed as in the official code:

    - invariance: the mean squared difference of the two views, over M and D.
    - variance: the mean of max(0, 1 - standard deviation) over D, averaged over both views.
    - covariance: the sum of the squared covariances of all pairs of different dimensions, divided by D and summed over
      both views.

    Args:
        first_MD: embeddings of the first view, float (M, D).
        second_MD: embeddings of the second view, float (M, D).
        invariance_weight: weight of the invariance term.
        variance_weight: weight of the variance term.
        covariance_weight: weight of the covariance term.

    Returns:
        The loss, 0-d, in float32 (float64 for float64 input) even under autocast.

    Raises:
        ValueError: if the shapes differ or are not (M, D), or if there are fewer than two images.
    """
    check_view_shapes(first_MD, second_MD, min_images=2)
    views_2MD = at_least_float32(torch.stack((first_MD, second_MD)))
    M, D = first_MD.shape
    with torch.autocast(views_2MD.device.type, enabled=False):
        invariance = (views_2MD[0] - views_2MD[1]).square().mean()
        std_2D = (views_2MD.var(1) + EPSILON).sqrt()
        variance = F.relu(1 - std_2D).mean()
        centered_2MD = views_2MD - views_2MD.mean(1, keepdim=True)
        covariance_2DD = centered_2MD.mT @ centered_2MD / (M - 1)
        diagonal_DD = torch.eye(D, dtype=torch.bool, device=views_2MD.device)
        covariance = covariance_2DD.masked_fill(diagonal_DD, 0).square().sum() / D
        return invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
