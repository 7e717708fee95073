"""RotationNet: predict whether a view was rotated by 0, 90, 180 or 270 degrees (Gidaris et al., ICLR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.compute.minimum_precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.params import RotationNetConfig

NUM_ROTATIONS = 4


class RotationNet(Method):
    """Train a backbone and a linear layer with cross-entropy over four rotations, as in the paper's code."""

    def __init__(self, config: RotationNetConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.classifier = nn.Linear(self.num_features, NUM_ROTATIONS)

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean cross-entropy of the 4·K·M rotated views, in at least float32 even under autocast."""
        logits = self.classifier(self.backbone(rotate_four_ways(views)))
        # If several processes share the mini-batch, the logits are for the views of all processes.
        targets = torch.arange(len(logits), device=logits.device) // (len(logits) // NUM_ROTATIONS)
        correct = (logits.detach().argmax(1) == targets).sum()
        return F.cross_entropy(at_least_float32(logits), targets), {"accuracy": (correct, len(targets))}


def rotate_four_ways(views: Tensor) -> Tensor:
    """Return each view rotated by 0, 90, 180 and 270 degrees counterclockwise.

    Args:
        views: square images (N, 3, S, S) of any dtype.

    Returns:
        The rotated views (4N, 3, S, S): first all views rotated by 0 degrees, then all rotated by 90 degrees, and so
        on.

    Raises:
        RuntimeError: if the images are not square.
    """
    views = views.contiguous()  # for channels-last images, rotating and concatenating would take three times as long
    return torch.cat([views.rot90(k, (2, 3)) for k in range(NUM_ROTATIONS)])
