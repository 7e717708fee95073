"""BYOL: predict how a moving average of the network encodes another view (Grill et al., NeurIPS 2020)."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rr.backbones.base import Backbone
from rr.compute.minimum_precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_mlp, build_projector
from rr.methods.similarity import check_view_shapes, count_nearest_matches
from rr.params import BYOLConfig


class BYOL(Method):
    """Train an online network (backbone, projector and predictor) to predict the projections of a target network.

    The target network is a copy of the backbone and the projector. Its parameters are an exponential moving average of
    the online network's parameters. As in the BYOL paper, its batch norms are in training mode and normalize with the
    statistics of the mini-batch. Their running statistics come from the target network's forward passes and are not
    averaged. The predictor has two layers.
    """

    def __init__(self, config: BYOLConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.projector = build_projector(self.num_features, config)
        self.predictor = build_mlp(config.projection_dim, config.hidden_dim, config.projection_dim)
        self.target = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(self.projector)).requires_grad_(False)
        self.config = config

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the `byol_loss` between each view's prediction and the target network's projection of the other view.

        Both views pass through each network as one batch. The accuracy is computed from the online network's
        projections.
        """
        projection_VD = self.projector(self.backbone(views))
        prediction_VD = self.predictor(projection_VD)
        with torch.no_grad():
            target_VD = self.target(views)
        loss = byol_loss(prediction_VD, target_VD.roll(len(labels), 0))
        return loss, {"accuracy": count_nearest_matches(*projection_VD.chunk(2))}

    @torch.no_grad()
    def after_step(self) -> None:
        """Set the target network's parameters to momentum · target + (1 - momentum) · online (equation 1).

        The `cosine` schedule comes from the BYOL paper (section 3.2): 1 - momentum decreases to 0.
        """
        momentum = self.config.momentum
        if self.config.momentum_schedule == "cosine":
            momentum = 1 - (1 - momentum) * (1 + math.cos(math.pi * self.progress)) / 2
        online = [*self.backbone.parameters(), *self.projector.parameters()]
        # The last argument, the number of steps, does not affect this average.
        get_ema_multi_avg_fn(momentum)(list(self.target.parameters()), online, 0)


def byol_loss(prediction_VD: Tensor, target_VD: Tensor) -> Tensor:
    """Return the mean of 2 - 2 cosine(prediction, target) over the rows.

    Each term is the squared distance between the normalized vectors (equation 2): 0 for equal directions and 4 for
    opposite ones. The BYOL paper adds the losses of the two views, whereas this function averages them. The targets
    also receive a gradient if they require one.

    Args:
        prediction_VD: predictions, float (V, D).
        target_VD: the target of each prediction, float (V, D).

    Returns:
        The loss, 0-d, in float32 (float64 for float64 input) even under autocast.

    Raises:
        ValueError: if the shapes differ or are not (V, D).
    """
    check_view_shapes(prediction_VD, target_VD)
    return 2 - 2 * F.cosine_similarity(at_least_float32(prediction_VD), at_least_float32(target_VD), dim=1).mean()
