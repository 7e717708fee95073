"""SimCLR: identify the other view of an image among all views of a mini-batch (Chen et al., ICML 2020)."""

import math
from typing import Literal

import torch
from torch import Tensor

from rr.backbones.base import Backbone
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_projector
from rr.methods.similarity import cosines_of_all_view_pairs, count_nearest_matches
from rr.params import SimCLRConfig


class SimCLR(Method):
    """Train a backbone and a projector with the `simclr_loss` of two views (one of the paper's baselines)."""

    def __init__(self, config: SimCLRConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.config = config
        self.projector = build_projector(self.num_features, config)

    def count_pairs(self, num_images: int) -> int:
        """Return the number of ordered pairs of 2M views, (2M)², as the paper counts them."""
        return (2 * num_images) ** 2

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the `simclr_loss` of two views, which pass through the networks as one batch."""
        first_MD, second_MD = self.projector(self.backbone(views)).chunk(2)
        loss = simclr_loss(first_MD, second_MD, self.config.temperature, self.config.loss)
        return loss, {"accuracy": count_nearest_matches(first_MD, second_MD)}


def simclr_loss(
    first_MD: Tensor, second_MD: Tensor, temperature: float, variant: Literal["log-mean-prob", "nt-xent"]
) -> Tensor:
    """Return the contrastive loss of two views of M images.

    For each of the 2M rows, let p be the softmax probability of its positive row (the other view of the same image)
    among all other rows. The logits are cosine similarities divided by the temperature.

    Args:
        first_MD: embeddings of the first view, float (M, D). They need not be normalized.
        second_MD: embeddings of the second view, float (M, D).
        temperature: a number above 0.
        variant: `nt-xent` is the mean of -log p (SimCLR, equation 1). `log-mean-prob` is -log of the mean of p (as in
            the code of the relational reasoning paper, which reports slightly better results with it).

    Returns:
        The loss, 0-d, in float32 (float64 for float64 input) even under autocast. The loss of a single image is 0.

    Raises:
        ValueError: if the shapes differ or are not (M, D), or if the variant is unknown.
    """
    if variant not in ("log-mean-prob", "nt-xent"):
        raise ValueError(f"variant must be log-mean-prob or nt-xent, got {variant!r}")
    logits_VV = cosines_of_all_view_pairs(first_MD, second_MD) / temperature
    M, V = len(first_MD), len(logits_VV)
    positive_V = torch.cat((logits_VV.diagonal(M), logits_VV.diagonal(-M)))
    # Probabilities stay in log space: at a temperature of 0.01, exp(logit) exceeds the range of float32.
    log_prob_V = positive_V - logits_VV.logsumexp(1)
    return -log_prob_V.mean() if variant == "nt-xent" else math.log(V) - log_prob_V.logsumexp(0)
