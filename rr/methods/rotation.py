"""RotationNet: predict whether a view was rotated by 0, 90, 180 or 270 degrees (Gidaris et al., ICLR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.compute.precision import at_least_float32
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
        rotated, _ = rotate_four_ways(views)
        logits = self.classifier(self.backbone(rotated))
        # `rotate_four_ways` returns labels only for the views of this process. If several processes share the
        # mini-batch, the logits are for the views of all processes.
        targets = _rotation_labels(logits)
        correct = (logits.detach().argmax(1) == targets).sum()
        return F.cross_entropy(at_least_float32(logits), targets), {"accuracy": (correct, len(targets))}


def rotate_four_ways(views: Tensor) -> tuple[Tensor, Tensor]:
    """Return each view rotated by 0, 90, 180 and 270 degrees counterclockwise, and the labels of the rotations.

    Args:
        views: square images (N, 3, S, S) of any dtype.

    Returns:
        The rotated views (4N, 3, S, S): first all views rotated by 0 degrees, then all rotated by 90 degrees, and so
        on. The labels are the numbers of quarter turns, int64 (4N,).

    Raises:
        RuntimeError: if the images are not square.
    """
    views = views.contiguous()  # rotating and concatenating planes takes a third as long as channels-last pixels
    rotated = torch.cat([views.rot90(k, (2, 3)) for k in range(NUM_ROTATIONS)])
    return rotated, _rotation_labels(rotated)


def _rotation_labels(rows: Tensor) -> Tensor:
    """Return the label of each row, int64. The rows are in the order of `rotate_four_ways`."""
    return torch.arange(len(rows), device=rows.device) // (len(rows) // NUM_ROTATIONS)
