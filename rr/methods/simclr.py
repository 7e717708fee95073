"""SimCLR: a view is to be more like the other view of its image than like all other views (Chen et al., ICML 2020)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from rr import params
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector
from rr.methods.similarity import cosines_of_others, count_matches


class SimCLR(Method):
    """Backbone and projector under the contrastive loss of two views (the paper's section of baselines)."""

    def __init__(self, settings: params.SimCLR, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        self.projector = projector(self.features, settings.hidden, settings.outputs)

    def pairs(self, images: int) -> int:
        """All ordered pairs of 2M views, as the paper counts them: (2M)²."""
        return (2 * images) ** 2

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """`nt_xent` of both views, which pass the networks as one batch (the paper's code); labels unused."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        loss = nt_xent(first_MD, second_MD, self.settings.temperature, self.settings.mean)
        return loss, {"accuracy": count_matches(first_MD, second_MD)}


def nt_xent(first_MD: Tensor, second_MD: Tensor, temperature: float, mean: Literal["of-ratios", "of-logs"]) -> Tensor:
    """The contrastive loss of two views of M images, 0-d, float32 (float64 for such input), also under autocast.

    Each of the 2M rows has a ratio: exp(s) of its positive over the sum of exp(s) of all rows but itself (the positive
    is among them), s being cosine over temperature.

    Args:
        first_MD, second_MD: embeddings, float (M, D), of any length.
        temperature: above 0.
        mean: ``of-logs`` is the mean of -log ratio (SimCLR, equation 1); ``of-ratios`` is -log of the mean ratio (the
            code of the relational reasoning paper, which found it slightly better).

    Raises ValueError for unfit shapes or another `mean`. The loss of a single image is 0.
    """
    if mean not in ("of-ratios", "of-logs"):
        raise ValueError(f"mean must be of-ratios or of-logs, got {mean!r}")
    s_VV = cosines_of_others(first_MD, second_MD) / temperature
    M, V = len(first_MD), len(s_VV)
    positive_V = torch.cat((s_VV.diagonal(M), s_VV.diagonal(-M)))
    # Ratios stay logarithms throughout: at a temperature of 0.01 exp(s) alone would leave the range of float32.
    log_ratio_V = positive_V - s_VV.logsumexp(1)
    return -log_ratio_V.mean() if mean == "of-logs" else math.log(V) - log_ratio_V.logsumexp(0)
