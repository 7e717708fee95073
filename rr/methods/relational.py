"""Self-supervised relational reasoning (the paper's section 3 and Algorithm 1)."""

import torch
from torch import Tensor, nn

from rr import params
from rr.methods.pairs import random_partners, roll_partners
from rr.methods.relation import RelationHead, relation_loss


class RelationalReasoning(nn.Module):
    """Backbone and relation head, trained together to tell pairs of views of one image from pairs of two images."""

    def __init__(self, settings: params.Relational, backbone: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.head = RelationHead(backbone.features, settings.aggregation)  # type: ignore[arg-type]

    def loss(
        self, views: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor | int]]]:
        """Bernoulli log-likelihood of all M(K² − K) pairs of (K·M, 3, S, S) views, focal or plain; labels unused."""
        K, M = self.settings.views, len(labels)
        features_KMD = self.backbone(views).view(K, M, -1)
        drawn = self.settings.negatives == "random"
        partners = (
            random_partners(K, M, generator).to(views.device) if drawn else roll_partners(K, M, device=views.device)
        )
        loss, right = relation_loss(
            self.head, features_KMD, partners, loss=self.settings.loss, gamma=self.settings.gamma
        )
        return loss, {
            "accuracy": (right.correct_positive + right.correct_negative, right.positives + right.negatives),
            "accuracy_positive": (right.correct_positive, right.positives),
            "accuracy_negative": (right.correct_negative, right.negatives),
        }

    def optimiser(self, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Adam at one rate for backbone and head, without schedule (official code)."""
        return torch.optim.Adam(self.parameters(), self.settings.learning_rate, fused=True), None
