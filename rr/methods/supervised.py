"""Supervised training: the upper bound in the tables of the paper."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr.backbones.base import Backbone
from rr.errors import UserError
from rr.methods.base import Method, Metrics
from rr.params import SupervisedConfig


class Supervised(Method):
    """Train a backbone and a linear layer with cross-entropy and SGD, as in the paper's code.

    The learning rate decays at milestones. With K > 1 views, a mini-batch contains every image K times, as in the
    paper's study of K.
    """

    label_fraction = 1.0

    def __init__(self, config: SupervisedConfig, backbone: Backbone, num_classes: int) -> None:
        """Create the classifier.

        Raises:
            UserError: if there are fewer than two classes.
        """
        super().__init__(backbone, config.learning_rate)
        if num_classes < 2:
            raise UserError(
                f"the supervised method needs at least two classes, but this dataset has {num_classes}: choose a "
                "method that needs no labels, or another dataset"
            )
        self.config = config
        self.classifier = nn.Linear(self.features, num_classes)
        self.min_batch_size = 2 if config.views == 1 else 1

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean cross-entropy of all K·M views and their labels."""
        logits = self.classifier(self.backbone(views))
        labels = labels.repeat(self.config.views)
        correct = (logits.detach().argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": (correct, len(labels))}

    def configure_optimizer(
        self, num_epochs: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Return SGD, and a scheduler that multiplies the learning rate by `lr_decay` at each milestone.

        Milestones are fractions of the number of epochs. They are rounded to whole epochs, but never to 0.
        """
        config = self.config
        optimizer = torch.optim.SGD(self.parameters(), config.learning_rate, config.momentum, fused=True)
        milestones = [max(1, round(fraction * num_epochs)) for fraction in config.milestones]
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, config.lr_decay)
