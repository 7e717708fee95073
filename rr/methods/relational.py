"""Self-supervised relational reasoning (the paper's section 3 and Algorithm 1)."""

import math

import torch
from torch import Tensor, nn

from rr import params
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector
from rr.methods.relation.dot_product import dot_loss
from rr.methods.relation.loss import RelationHead, relation_loss
from rr.methods.relation.objective import PairStatistics
from rr.methods.relation.pairs import class_partners, other_class_partners, random_partners, roll_partners

# The encoder of the head ablation (b); its shape is not published, so it is that of SimCLR's projection.
ENCODER = (256, 64)


class RelationalReasoning(Method):
    """Backbone and head, trained together to tell pairs of views of one image from pairs of two images.

    With labels (the paper's semi-supervised runs, whose procedure is not published) the positive partner of a labelled
    image is any image of the mini-batch known to be of its class, itself included, and its negative partner none of
    them.
    """

    def __init__(self, settings: params.Relational, backbone: nn.Module) -> None:
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        self.labelled = settings.labelled
        self.smallest_batch = 1 if settings.views > 2 else 2  # a single pair has no batch statistics
        match settings.head:
            case "relation":
                self.head: nn.Module = RelationHead(self.features, settings.aggregation)
            case "dot":
                self.head = nn.Identity()
            case "encoder-dot":
                self.head = projector(self.features, *ENCODER)

    def pairs(self, images: int) -> int:
        """P = M(K² − K), half of them positive; of a single image the positives alone."""
        K = self.settings.views
        return images * (K * K - K) // (1 if images > 1 else 2)

    def draw(self, images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random negative partners, int64 (Q, M), if asked for; then uniform numbers, float32 (2, Q, M), with labels.

        Q = K(K − 1)/2 pairs of views.
        """
        K, pairs = self.settings.views, self.settings.views * (self.settings.views - 1) // 2
        drawn: tuple[Tensor, ...] = ()
        if self.settings.negatives == "random":
            drawn = (random_partners(K, images, generator),)
        if self.labelled:
            drawn += (torch.rand(2, pairs, images, generator=generator),)
        return drawn

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """Bernoulli log-likelihood of all M(K² − K) pairs, focal or plain (paper, equations 1 and 2)."""
        settings, M = self.settings, len(labels)
        K = settings.views
        partners = drawn[0] if settings.negatives == "random" else roll_partners(K, M, device=views.device)
        positives = None
        if self.labelled:
            for_positives, for_negatives = drawn[-1].unbind(0)
            positives = class_partners(labels, for_positives)
            partners = other_class_partners(labels, partners, for_negatives) if M > 1 else partners
        features_ND = self.backbone(views)
        options = {"loss": settings.loss, "gamma": settings.gamma, "alpha": settings.alpha}
        if settings.head == "relation":
            loss, found = relation_loss(self.head, features_ND.view(K, M, -1), partners, positives, **options)  # type: ignore[arg-type]
        else:
            loss, found = dot_loss(self.head(features_ND).view(K, M, -1), partners, positives, **options)  # type: ignore[arg-type]
        return loss, {
            "accuracy": (found.correct_positive + found.correct_negative, found.positives + found.negatives),
            "accuracy_positive": (found.correct_positive, found.positives),
            "accuracy_negative": (found.correct_negative, found.negatives),
            "information": information(found),
        }


def information(found: PairStatistics) -> tuple[Tensor, int]:
    """A lower bound on the Jensen–Shannon mutual information between two views, in bits, as (bound × pairs, pairs).

    Let p be the distribution of positive pairs and q that of negatives, whose halves are independent. For any y(z, z')
    in (0, 1), with the optimum y = p / (p + q) attaining equality,

        E_p[log y] + E_q[log(1 − y)]  ≤  2 JSD(p ‖ q) − 2 log 2,

    so JSD(p ‖ q) ≥ log 2 + (E_p[log y] + E_q[log(1 − y)]) / 2: the Bernoulli log-likelihood that `bce` maximises, plus
    a constant; under the focal loss it is the same bound, and looser. This is the paper's argument (its section on
    mutual information). The divergence between the joint distribution of two views and the product of their marginals
    lies in [0, 1] bit: 0 when a view says nothing of the other, 1 when it gives the image away. A head worse than a
    constant makes the bound negative. Measured on the pairs that the head is trained on, so it is an estimate that may
    exceed the bound itself. With labels, positives share a class and not always an image: the bound is then on what two
    pictures of a class tell of each other.
    """
    if not found.negatives:
        return found.likelihood_positive * 0, 0
    mean = found.likelihood_positive / found.positives + found.likelihood_negative / found.negatives
    pairs = found.positives + found.negatives
    return (1 + mean / (2 * math.log(2))) * pairs, pairs
