"""Supervised training: the upper bound in the paper's tables."""

from torch import Tensor, nn
from torch.nn import functional as F

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.params import SupervisedConfig


class Supervised(Method):
    """Train a backbone and a linear layer with cross-entropy, as in the paper's code.

    With K > 1 views, a mini-batch contains every image K times, as in the paper's study of K.
    """

    def __init__(self, config: SupervisedConfig, backbone: Backbone, num_classes: int) -> None:
        """Create the classifier."""
        super().__init__(backbone)
        self.config = config
        self.classifier = nn.Linear(self.num_features, num_classes)

    @property
    def trained_classifier(self) -> nn.Linear:
        """The layer that predicts the dataset's classes."""
        return self.classifier

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean cross-entropy of all K·M views and their labels."""
        logits = self.classifier(self.backbone(views))
        labels = labels.repeat(self.config.views)
        correct = (logits.detach().argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels), {"accuracy": (correct, len(labels))}
