"""BYOL: predict what a slowly following copy of the network says of another view (Grill et al., NeurIPS 2020)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rr import params
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector
from rr.methods.similarity import check_views, count_matches


class BYOL(Method):
    """Backbone, projector and predictor, and as `target` copies of backbone and projector that follow them.

    The target's parameters are an exponential moving average of the online ones. Its batch norms are in training mode
    and normalise with the statistics of their own mini-batch, as in BYOL; their running statistics come from its own
    passes and are not averaged. The momentum is constant, while BYOL raises it to 1 over the training.
    """

    def __init__(self, settings: params.BYOL, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.projector = projector(self.features, settings.hidden, settings.outputs)
        self.predictor = projector(settings.outputs, settings.hidden, settings.outputs)
        self.target = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(self.projector)).requires_grad_(False)
        self._average = get_ema_multi_avg_fn(settings.momentum)

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """`byol_loss` in both directions: each view's prediction against the target's projection of the other view.

        Both views pass each network as one batch. `accuracy` is that of the online projections. Labels unused.
        """
        projection_VD = self.projector(self.backbone(views))
        prediction_VD = self.predictor(projection_VD)
        with torch.no_grad():
            target_VD = self.target(views)
        loss = byol_loss(prediction_VD, target_VD.roll(len(labels), 0))
        return loss, {"accuracy": count_matches(*projection_VD.chunk(2))}

    @torch.no_grad()
    def after_step(self) -> None:
        """target = momentum · target + (1 - momentum) · online, for every parameter (BYOL, equation 1)."""
        online = [*self.backbone.parameters(), *self.projector.parameters()]
        self._average(list(self.target.parameters()), online, 0)  # the count of steps plays no part in this average


def byol_loss(prediction_VD: Tensor, target_VD: Tensor) -> Tensor:
    """Mean over rows of 2 - 2 cosine(prediction, target): 0 for one direction, 4 for opposite ones.

    Takes float (V, D) each and gives 0-d float32 (float64 for such input), also under autocast. This is the squared
    distance of the unit vectors (BYOL, equation 2); BYOL adds the two directions, here they are averaged. Targets get
    a gradient if they require one. Raises ValueError for unfit shapes.
    """
    check_views(prediction_VD, target_VD)
    return 2 - 2 * F.cosine_similarity(at_least_float32(prediction_VD), at_least_float32(target_VD), dim=1).mean()
