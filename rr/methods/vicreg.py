"""VICReg: alike views, dimensions that vary and do not repeat each other (Bardes, Ponce and LeCun, ICLR 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import params
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector
from rr.methods.similarity import check_views, count_matches

EPSILON = 1e-4  # within the root of the variance, whose slope would be infinite at 0


class VICReg(Method):
    """Backbone and projector under `vicreg_loss` of two views."""

    def __init__(self, settings: params.VICReg, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        self.projector = projector(self.features, settings.hidden, settings.outputs)

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """`vicreg_loss` of both views, which pass the networks as one batch; labels unused."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        weights = self.settings.invariance, self.settings.variance, self.settings.covariance
        return vicreg_loss(first_MD, second_MD, *weights), {"accuracy": count_matches(first_MD, second_MD)}


def vicreg_loss(first_MD: Tensor, second_MD: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """Weighted sum of the three terms (VICReg, equation 6), 0-d, float32 (float64 for such input), also under autocast.

    The terms, over embeddings of type float and shape (M, D):
        invariance: mean squared difference of the views, over M and D (the official code).
        variance: how far a dimension's standard deviation is below 1, mean over D, mean of both views (the same).
        covariance: squared covariances of different dimensions, summed and divided by D, sum of both views.

    Raises ValueError for unfit shapes and for fewer than two images, which have no variance.
    """
    check_views(first_MD, second_MD, smallest=2)
    views_2MD = at_least_float32(torch.stack((first_MD, second_MD)))
    M, D = first_MD.shape
    with torch.autocast(views_2MD.device.type, enabled=False):
        difference = (views_2MD[0] - views_2MD[1]).square().mean()
        std_2D = (views_2MD.var(1) + EPSILON).sqrt()
        centred_2MD = views_2MD - views_2MD.mean(1, keepdim=True)
        covariance_2DD = centred_2MD.mT @ centred_2MD / (M - 1)
        itself_DD = torch.eye(D, dtype=torch.bool, device=views_2MD.device)
        repeated = covariance_2DD.masked_fill(itself_DD, 0).square().sum() / D
        return invariance * difference + variance * F.relu(1 - std_2D).mean() + covariance * repeated
