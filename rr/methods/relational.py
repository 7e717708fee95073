"""Self-supervised relational reasoning (section 3 and Algorithm 1 of the paper)."""

import math

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_mlp
from rr.methods.relation import PairLossConfig, RelationHead, relation_loss
from rr.methods.relation.dot_product_loss import dot_product_loss
from rr.methods.relation.pair_loss import PairStatistics
from rr.methods.relation.pairs import (
    choose_positive_rows,
    replace_same_class_negatives,
    roll_negative_rows,
    sample_negative_rows,
)
from rr.params import RelationalConfig

# Hidden and output sizes of the encoder in head ablation (b). The paper does not specify them, so SimCLR's sizes are
# used.
ENCODER_DIMS = (256, 64)


class RelationalReasoning(Method):
    """Train a backbone and a head to distinguish two views of the same image from views of two different images.

    The paper does not explain how its semi-supervised runs use labels. Here, the positive partner of a labeled image is
    a random image with the same label from the mini-batch, possibly the image itself. The negative partner of an image
    has a different label or no label, unless all images in the mini-batch have the same label.
    """

    def __init__(self, config: RelationalConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.config = config
        self.pair_loss_config = PairLossConfig(config.loss, config.gamma, config.alpha)
        self.head: nn.Module
        match config.head:
            case "relation":
                self.head = RelationHead(self.num_features, config.aggregation)
            case "dot":
                self.head = nn.Identity()
            case "encoder-dot":
                self.head = build_mlp(self.num_features, *ENCODER_DIMS)

    @property
    def relation_head(self) -> RelationHead | None:
        """The relation head, or None in the ablations that use a different head."""
        return self.head if isinstance(self.head, RelationHead) else None

    def count_pairs(self, num_images: int) -> int:
        """Return the number of pairs: M(K² − K), half of them positive. If M = 1, only the positive half exists."""
        K = self.config.views
        return num_images * (K * K - K) // (1 if num_images > 1 else 2)

    def sample_random_inputs(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Sample the random numbers that determine the partners, for Q = K(K − 1)/2 pairs of views.

        Returns:
            A tuple. If negatives are random, it contains the rows of the negative partners, int64 (Q, M). If labels are
            used, it also contains uniform numbers in [0, 1) for the positive and the negative partners, float32
            (2, Q, M).
        """
        K = self.config.views
        random_inputs: tuple[Tensor, ...] = ()
        if self.config.negatives == "random":
            random_inputs = (sample_negative_rows(K, num_images, generator),)
        if self.config.label_fraction:
            random_inputs += (torch.rand(2, K * (K - 1) // 2, num_images, generator=generator),)
        return random_inputs

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the mean loss of all M(K² − K) pairs (paper, equations 1 and 2)."""
        K, M = self.config.views, len(labels)
        if self.config.negatives == "random":
            negative_rows = random_inputs[0]
        else:
            negative_rows = roll_negative_rows(K, M, device=views.device)
        positive_rows = None
        if self.config.label_fraction:
            positive_uniform_QM, negative_uniform_QM = random_inputs[-1].unbind(0)
            positive_rows = choose_positive_rows(labels, positive_uniform_QM)
            if M > 1:
                negative_rows = replace_same_class_negatives(labels, negative_rows, negative_uniform_QM)
        pair_arguments = (negative_rows, positive_rows, self.pair_loss_config)
        features_ND = self.backbone(views)
        if isinstance(self.head, RelationHead):
            loss, stats = relation_loss(self.head, features_ND.view(K, M, -1), *pair_arguments)
        else:
            loss, stats = dot_product_loss(self.head(features_ND).view(K, M, -1), *pair_arguments)
        num_pairs = stats.num_positives + stats.num_negatives
        information = (mutual_information_bound(stats) * num_pairs, num_pairs) if stats.num_negatives else (0, 0)
        return loss, {
            "accuracy": (stats.correct_positives + stats.correct_negatives, num_pairs),
            "accuracy_positive": (stats.correct_positives, stats.num_positives),
            "accuracy_negative": (stats.correct_negatives, stats.num_negatives),
            "information": information,
        }


def mutual_information_bound(stats: PairStatistics) -> Tensor:
    """Return a lower bound on the Jensen–Shannon mutual information between two views, in bits.

    Let p be the distribution of positive pairs and q the distribution of negative pairs, whose members are independent.
    For any y(z, z') in (0, 1),

        E_p[log y] + E_q[log(1 − y)]  ≤  2 JSD(p ‖ q) − 2 log 2,

    with equality for y = p / (p + q). Hence JSD(p ‖ q) ≥ log 2 + (E_p[log y] + E_q[log(1 − y)]) / 2. The right-hand
    side is a constant plus the Bernoulli log-likelihood that `bce` maximizes. The bound also holds, but is looser, for
    a head trained with the focal loss. The argument comes from the paper's section on mutual information.

    The divergence between the joint distribution of two views and the product of their marginals is between 0 and 1
    bit. It is 0 if the views are independent, and 1 if one view identifies the image of the other. The bound is
    negative if the head's predictions are worse than a constant probability of 1/2. It is computed on the same pairs
    that the head is trained on, so it is an estimate that may exceed the true value.

    With labels, positive pairs share a class, but not always an image. The bound then refers to the information that
    two images of a class have in common.

    Args:
        stats: statistics of at least one positive and one negative pair.

    Returns:
        The bound, 0-d.
    """
    mean = stats.log_likelihood_positives / stats.num_positives + stats.log_likelihood_negatives / stats.num_negatives
    return 1 + mean / (2 * math.log(2))
