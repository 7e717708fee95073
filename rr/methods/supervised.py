"""Supervised training: the upper bound of every table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr import params
from rr.errors import UserError
from rr.methods.base import Method, Statistics


class Supervised(Method):
    """Backbone and linear layer under cross-entropy, SGD with steps in its rate (the paper's code).

    With K > 1 views every picture counts K times in a mini-batch (the paper's study of K).
    """

    smallest_batch = 1
    labelled = 1.0

    def __init__(self, settings: params.Supervised, backbone: nn.Module, classes: int) -> None:
        super().__init__(backbone, settings.learning_rate)
        if classes < 2:
            raise UserError(
                f"the supervised method needs two classes, and this data set has {classes}: leave it out of grid.method"
            )
        self.settings = settings
        self.classifier = nn.Linear(self.features, classes)
        if settings.views == 1:
            self.smallest_batch = 2

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """Mean cross-entropy of all K·M views against their labels."""
        logits = self.classifier(self.backbone(views))
        labels = labels.repeat(self.settings.views)
        right = (logits.detach().argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": (right, len(labels))}

    def optimiser(self, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """SGD whose rate falls after the given shares of the epochs, each at least one epoch."""
        settings = self.settings
        optimiser = torch.optim.SGD(self.parameters(), settings.learning_rate, settings.momentum, fused=True)
        milestones = [max(1, round(share * epochs)) for share in settings.milestones]
        return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, settings.decay)
