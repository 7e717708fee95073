"""Supervised training: the upper bound in the tables of the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.params import SupervisedConfig


class Supervised(Method):
    """Train a backbone and a linear layer with cross-entropy and SGD, as in the paper's code.

    The learning rate decays at milestones. With K > 1 views, a mini-batch contains every image K times, as in the
    paper's study of K.
    """

    def __init__(self, config: SupervisedConfig, backbone: Backbone, num_classes: int) -> None:
        """Create the classifier."""
        super().__init__(backbone, config.learning_rate)
        self.config = config
        self.classifier = nn.Linear(self.features, num_classes)

    @property
    def trained_classifier(self) -> nn.Linear:
        """The layer that predicts the classes of the dataset."""
        return self.classifier

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean cross-entropy of all K·M views and their labels."""
        logits = self.classifier(self.backbone(views))
        labels = labels.repeat(self.config.views)
        correct = (logits.detach().argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": (correct, len(labels))}

    def configure_optimizer(
        self, num_epochs: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Return SGD, and a scheduler that multiplies the learning rate by `lr_decay` at each milestone."""
        config = self.config
        optimizer = torch.optim.SGD(self.parameters(), config.learning_rate, config.momentum, fused=True)
        milestones = milestone_epochs(config.milestones, num_epochs)
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, config.lr_decay)


def milestone_epochs(fractions: Sequence[float], num_epochs: int) -> list[int]:
    """Return the epochs before which the learning rate decays, counted from 0.

    As in the paper's code, a fraction of the number of epochs is rounded down, and milestones in the same epoch count
    once. In contrast to that code, the first epoch is never a milestone.
    """
    # Without the inner rounding, 0.29 of 100 epochs would be 28, because 0.29 * 100 is 28.999999999999996.
    return sorted({max(1, int(round(fraction * num_epochs, 6))) for fraction in fractions})
