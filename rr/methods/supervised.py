"""Supervised training: the upper bound of every table (the official code's "standard")."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr import params
from rr.errors import UserError


class Supervised(nn.Module):
    """Backbone and linear layer, cross-entropy; SGD whose rate falls at shares of the epochs (official code)."""

    def __init__(self, settings: params.Supervised, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise UserError(
                "the supervised method needs labels, and this data set has none: leave it out of grid.method"
            )
        self.settings = settings
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.features, classes)  # type: ignore[arg-type]

    def loss(
        self, views: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor | int]]]:
        """Cross-entropy of (M, 3, S, S) against int64 labels (M,)."""
        logits = self.classifier(self.backbone(views))
        right = (logits.detach().argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": (right, len(labels))}

    def optimiser(self, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        optimiser = torch.optim.SGD(self.parameters(), self.settings.learning_rate, self.settings.momentum, fused=True)
        milestones = [round(share * epochs) for share in self.settings.milestones]
        return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, self.settings.decay)
