"""Self-supervised relational reasoning (section 3 and Algorithm 1 of the paper)."""

import math

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_projector
from rr.methods.relation import PairLossConfig, RelationHead, relation_loss
from rr.methods.relation.dot_product import dot_product_loss
from rr.methods.relation.pair_loss import PairStatistics
from rr.methods.relation.pairs import other_class_partners, random_partners, roll_partners, same_class_partners
from rr.params import RelationalConfig

# Hidden and output size of the encoder of head ablation (b). The paper does not give them, so they are those of SimCLR.
ENCODER_DIMS = (256, 64)


class RelationalReasoning(Method):
    """Train a backbone and a head to distinguish pairs of views of one image from pairs of views of two images.

    With labels (the paper's semi-supervised runs, whose procedure is not published), the positive partner of a labeled
    image is any image of the mini-batch that is known to be of its class, including itself. Its negative partner is an
    image that is not known to be of its class.
    """

    def __init__(self, config: RelationalConfig, backbone: Backbone) -> None:
        super().__init__(backbone, config.learning_rate)
        self.config = config
        self.pair_loss = PairLossConfig(config.loss, config.gamma, config.alpha)
        self.label_fraction = config.label_fraction
        self.min_batch_size = 1 if config.views > 2 else 2  # a single pair has no batch statistics
        self.head: nn.Module
        match config.head:
            case "relation":
                self.head = RelationHead(self.features, config.aggregation)
            case "dot":
                self.head = nn.Identity()
            case "encoder-dot":
                self.head = build_projector(self.features, *ENCODER_DIMS)

    def count_pairs(self, num_images: int) -> int:
        """Return the number of pairs, P = M(K² − K). Half of them are positive; a single image has only those."""
        K = self.config.views
        return num_images * (K * K - K) // (1 if num_images > 1 else 2)

    def sample_noise(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Sample what the choice of partners needs, for Q = K(K − 1)/2 pairs of views.

        Returns:
            Negative partners, int64 (Q, M), if they are random. Then, if labels are used, uniform numbers, float32
            (2, Q, M).
        """
        K = self.config.views
        noise: tuple[Tensor, ...] = ()
        if self.config.negatives == "random":
            noise = (random_partners(K, num_images, generator),)
        if self.label_fraction:
            noise += (torch.rand(2, K * (K - 1) // 2, num_images, generator=generator),)
        return noise

    def loss(self, views: Tensor, labels: Tensor, noise: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean loss of all M(K² − K) pairs (paper, equations 1 and 2)."""
        K, M = self.config.views, len(labels)
        partners = noise[0] if self.config.negatives == "random" else roll_partners(K, M, device=views.device)
        positives = None
        if self.label_fraction:
            positive_noise, negative_noise = noise[-1].unbind(0)
            positives = same_class_partners(labels, positive_noise)
            partners = other_class_partners(labels, partners, negative_noise) if M > 1 else partners
        features_ND = self.backbone(views)
        if isinstance(self.head, RelationHead):
            features_KMD = features_ND.view(K, M, -1)
            loss, stats = relation_loss(self.head, features_KMD, partners, positives, self.pair_loss)
        else:
            loss, stats = dot_product_loss(self.head(features_ND).view(K, M, -1), partners, positives, self.pair_loss)
        return loss, {
            "accuracy": (
                stats.correct_positives + stats.correct_negatives,
                stats.num_positives + stats.num_negatives,
            ),
            "accuracy_positive": (stats.correct_positives, stats.num_positives),
            "accuracy_negative": (stats.correct_negatives, stats.num_negatives),
            "information": mutual_information_bound(stats),
        }


def mutual_information_bound(stats: PairStatistics) -> tuple[Tensor, int]:
    """Return a lower bound on the Jensen–Shannon mutual information between two views, in bits.

    Let p be the distribution of positive pairs and q that of negative pairs, whose members are independent. For any
    y(z, z') in (0, 1),

        E_p[log y] + E_q[log(1 − y)]  ≤  2 JSD(p ‖ q) − 2 log 2,

    with equality for y = p / (p + q). Hence JSD(p ‖ q) ≥ log 2 + (E_p[log y] + E_q[log(1 − y)]) / 2. The
    right-hand side is a constant plus the Bernoulli log-likelihood that `bce` maximizes. Under the focal loss, it is
    the same bound, but looser. This is the paper's argument (its section on mutual information).

    The divergence between the joint distribution of two views and the product of their marginals is between 0 and 1
    bit. It is 0 if the views are independent, and 1 if one view identifies the image of the other. The bound is
    negative if the head predicts worse than a constant. It is computed on the pairs that the head is trained on, so it
    is an estimate that may exceed the true value.

    With labels, positive pairs share a class and not always an image. The bound then refers to the information that two
    images of a class have in common.

    Returns:
        The bound as a fraction: bound times number of pairs, and number of pairs. Both are 0 if there are no negatives.
    """
    if not stats.num_negatives:
        return stats.log_likelihood_positives * 0, 0
    mean = stats.log_likelihood_positives / stats.num_positives + stats.log_likelihood_negatives / stats.num_negatives
    num_pairs = stats.num_positives + stats.num_negatives
    return (1 + mean / (2 * math.log(2))) * num_pairs, num_pairs
