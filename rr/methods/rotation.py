"""RotationNet: by how many quarter turns was a view rotated? (Gidaris et al., ICLR 2018)"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr import params
from rr.compute.precision import at_least_float32
from rr.methods.base import Method, Statistics

TURNS = 4


class RotationNet(Method):
    """Backbone and linear layer under cross-entropy over four rotations (the paper's code)."""

    smallest_batch = 1  # which is four rows

    def __init__(self, settings: params.RotationNet, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.classifier = nn.Linear(self.features, TURNS)

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """Mean cross-entropy of the 4·K·M rotated views, at least float32 also under autocast; labels unused."""
        turned, _ = rotate(views)
        logits = self.classifier(self.backbone(turned))
        turns = _turns(logits)  # of all views, of which several processes each turn their own
        right = (logits.detach().argmax(1) == turns).sum()
        return F.cross_entropy(at_least_float32(logits), turns), {"accuracy": (right, len(turns))}


def rotate(views: Tensor) -> tuple[Tensor, Tensor]:
    """Every view at 0, 90, 180 and 270 degrees counter-clockwise: all at 0 first, then all at 90, and so on.

    Takes (N, 3, S, S) of any type and gives (4N, 3, S, S) of it in channels_last memory, and the number of quarter
    turns, int64 (4N,). Raises RuntimeError for pictures that are not square.
    """
    # With channels last, joining writes the rotated batch in its final memory format, so it is written only once.
    views_NSSC = views.permute(0, 2, 3, 1)
    turned = torch.cat([views_NSSC.rot90(turn, (1, 2)) for turn in range(TURNS)]).permute(0, 3, 1, 2)
    return turned, _turns(turned)


def _turns(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device) // (len(rows) // TURNS)
