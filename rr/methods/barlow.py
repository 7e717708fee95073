"""Barlow Twins: dimensions of two views correlate with themselves and with no other (Zbontar et al., ICML 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import params
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector
from rr.methods.similarity import check_views, count_matches

EPSILON = 1e-5


class BarlowTwins(Method):
    """Backbone and projector under `barlow_loss` of two views."""

    def __init__(self, settings: params.BarlowTwins, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        self.projector = projector(self.features, settings.hidden, settings.outputs)

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """`barlow_loss` of both views, which pass the networks as one batch; labels unused."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        loss = barlow_loss(first_MD, second_MD, self.settings.redundancy)
        return loss, {"accuracy": count_matches(first_MD, second_MD)}


def barlow_loss(first_MD: Tensor, second_MD: Tensor, redundancy: float) -> Tensor:
    """Distance of the cross-correlation C of both views from the identity, 0-d (Barlow Twins, equation 1).

    The sum of (1 - C_ii)^2, and `redundancy` times the sum of C_ij^2 for i other than j. C correlates a dimension of
    the first view with one of the second over the M images; each view is normalised by its own mean and biased
    standard deviation, with 1e-5 added to the variance (the official code's batch norm).

    Takes float (M, D) each and gives float32 (float64 for such input), also under autocast. Raises ValueError for
    unfit shapes and for fewer than two images, which have no correlation.
    """
    check_views(first_MD, second_MD, smallest=2)
    M, D = first_MD.shape
    with torch.autocast(first_MD.device.type, enabled=False):
        first_MD, second_MD = (
            F.batch_norm(at_least_float32(view_MD), None, None, training=True, eps=EPSILON)
            for view_MD in (first_MD, second_MD)
        )
        correlation_DD = first_MD.T @ second_MD / M
        itself_DD = torch.eye(D, dtype=torch.bool, device=correlation_DD.device)
        different = (1 - correlation_DD.diagonal()).square().sum()
        return different + redundancy * correlation_DD.masked_fill(itself_DD, 0).square().sum()
