"""Barlow Twins: make the cross-correlation matrix of two views the identity (Zbontar et al., ICML 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rr.backbones.base import Backbone
from rr.compute.minimum_precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_projector
from rr.methods.similarity import check_view_shapes, count_nearest_matches
from rr.params import BarlowTwinsConfig

EPSILON = 1e-5  # added to the variance


class BarlowTwins(Method):
    """Train a backbone and a projector with the `barlow_twins_loss` of two views."""

    def __init__(self, config: BarlowTwinsConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.config = config
        self.projector = build_projector(self.num_features, config)

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the `barlow_twins_loss` of both views, which pass through the networks as one batch."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        loss = barlow_twins_loss(first_MD, second_MD, self.config.redundancy_weight)
        return loss, {"accuracy": count_nearest_matches(first_MD, second_MD)}


def barlow_twins_loss(first_MD: Tensor, second_MD: Tensor, redundancy_weight: float) -> Tensor:
    """Return how far the cross-correlation matrix C of two views is from the identity matrix (equation 1).

    The loss is the sum of (1 - C_ii)^2, plus `redundancy_weight` times the sum of C_ij^2 over i != j. C_ij is the
    correlation between dimension i of the first view and dimension j of the second view over the M images. Each view is
    normalized with its own mean and biased standard deviation. As in the official code, 1e-5 is added to the variance.

    Args:
        first_MD: embeddings of the first view, float (M, D).
        second_MD: embeddings of the second view, float (M, D).
        redundancy_weight: weight of the off-diagonal entries.

    Returns:
        The loss, 0-d, in float32 (float64 for float64 input) even under autocast.

    Raises:
        ValueError: if the shapes differ or are not (M, D), or if there are fewer than two images.
    """
    check_view_shapes(first_MD, second_MD, min_images=2)
    M, D = first_MD.shape
    with torch.autocast(first_MD.device.type, enabled=False):
        first_MD, second_MD = (
            F.batch_norm(at_least_float32(view_MD), None, None, training=True, eps=EPSILON)
            for view_MD in (first_MD, second_MD)
        )
        correlation_DD = first_MD.T @ second_MD / M
        diagonal_DD = torch.eye(D, dtype=torch.bool, device=correlation_DD.device)
        invariance = (1 - correlation_DD.diagonal()).square().sum()
        return invariance + redundancy_weight * correlation_DD.masked_fill(diagonal_DD, 0).square().sum()
