"""The pair loss and the prediction statistics that all implementations of the relation loss use."""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PairLossKind = Literal["focal", "bce"]


@dataclass(frozen=True)
class PairLossConfig:
    """The loss function for pairs. The defaults are the same as in the paper's code.

    Attributes:
        kind: `bce` is the mean binary cross-entropy. `focal` is the mean of the cross-entropy times the weight
            alpha · (1 - p_t)^gamma (the paper's w_p). p_t is the predicted probability of the
            correct answer.
        gamma: the focal exponent, at least 0. `bce` does not use it.
        alpha: the factor for positive pairs, in (0, 1). The factor for negative pairs is 1 - alpha. `bce` does not use
            it.

    Raises:
        ValueError: if `kind` is unknown, `gamma` is negative or not finite, or `alpha` is not in (0, 1).
    """

    kind: PairLossKind = "focal"
    gamma: float = 2.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(PairLossKind):
            raise ValueError(f"PairLossConfig: kind must be {' or '.join(get_args(PairLossKind))}, got {self.kind!r}")
        if not 0 <= self.gamma < inf:
            raise ValueError(f"PairLossConfig: gamma must be finite and not negative, got {self.gamma}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"PairLossConfig: alpha must be greater than 0 and less than 1, got {self.alpha}")


PAPER_PAIR_LOSS = PairLossConfig()


class PairStatistics(NamedTuple):
    """Counts over the pairs of one step, and sums of the log-likelihoods (in nats) of the correct answers.

    The numbers of pairs are Python integers, and all other values are 0-d tensors on the features' device (int64 for
    the counts of correct predictions). A logit above 0 predicts "same image". Positives and negatives are distinguished
    by their targets. The paper's code instead splits its predictions into two halves, although positive and negative
    blocks alternate.
    """

    correct_positives: Tensor
    num_positives: int
    correct_negatives: Tensor
    num_negatives: int
    log_likelihood_positives: Tensor
    log_likelihood_negatives: Tensor

    @property
    def accuracy(self) -> Tensor:
        """The fraction of the pairs that are classified correctly, 0-d."""
        num_pairs = self.num_positives + self.num_negatives
        return (self.correct_positives + self.correct_negatives) / num_pairs


def pair_loss(positive_logits: Tensor, negative_logits: Tensor, config: PairLossConfig) -> Tensor:
    """Return the mean loss over the logits of positive and negative pairs; `negative_logits` may be empty."""
    wrong_logits_P = torch.cat((-positive_logits.flatten(), negative_logits.flatten()))
    alpha = alpha_weights(wrong_logits_P, slice(positive_logits.numel()), config)
    return _MeanPairLoss.apply(wrong_logits_P, config, alpha)


def alpha_weights(wrong_logits_P: Tensor, positive_slice: slice, config: PairLossConfig) -> Tensor | float:
    """Return the alpha factor of each pair, (P,), or a single number if it is the same for all pairs."""
    if config.kind == "bce":
        return 1.0
    if config.alpha == 0.5:
        return config.alpha
    alpha_P = wrong_logits_P.new_full((wrong_logits_P.numel(),), 1 - config.alpha)
    alpha_P[positive_slice] = config.alpha
    return alpha_P


def pair_loss_and_grad(wrong_logits_P: Tensor, config: PairLossConfig, alpha: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the mean loss of all pairs, and its derivative with respect to the logit of each pair.

    Let s = sigmoid(w) and c = softplus(w). The cross-entropy of a pair is c, with derivative s. Its focal loss is alpha
    s^gamma c, with derivative alpha s^gamma (gamma (1 - s) c + s). The derivatives are written out because autograd
    would need five times as many operations, and would multiply 0 by infinity at s = 0 for gamma < 1.

    Args:
        wrong_logits_P: the logit w of the wrong answer to each pair, (P,).
        config: the loss function.
        alpha: what `alpha_weights` returned for these pairs.

    Returns:
        The mean loss, 0-d, and the derivatives, (P,).
    """
    sigmoid_P = torch.sigmoid(wrong_logits_P)
    cross_entropy_P = -F.logsigmoid(-wrong_logits_P)  # not F.softplus, which is approximate above 20
    count = max(1, wrong_logits_P.numel())
    if config.kind == "bce":
        return cross_entropy_P.mean(), sigmoid_P / count
    weight_P = sigmoid_P.pow(config.gamma) * (alpha / count)
    grad_P = weight_P * torch.addcmul(sigmoid_P, 1 - sigmoid_P, cross_entropy_P, value=config.gamma)
    return (weight_P * cross_entropy_P).sum(), grad_P


class _MeanPairLoss(torch.autograd.Function):
    """Call `pair_loss_and_grad` as a single node of the autograd graph. Only first derivatives are available."""

    @staticmethod
    def forward(ctx: Any, wrong_logits_P: Tensor, config: PairLossConfig, alpha: Tensor | float) -> Tensor:
        loss, grad_P = pair_loss_and_grad(wrong_logits_P, config, alpha)
        ctx.save_for_backward(grad_P)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (grad_P,) = ctx.saved_tensors
        return grad_loss * grad_P, None, None


@torch.no_grad()
def pair_statistics(positive_logits: Tensor, negative_logits: Tensor) -> PairStatistics:
    """Count the correct predictions, and sum the log-likelihoods of all pairs, without waiting for the device."""
    return PairStatistics(
        correct_positives=(positive_logits > 0).sum(),
        num_positives=positive_logits.numel(),
        correct_negatives=(negative_logits <= 0).sum(),
        num_negatives=negative_logits.numel(),
        log_likelihood_positives=F.logsigmoid(positive_logits).sum(),
        log_likelihood_negatives=F.logsigmoid(-negative_logits).sum(),
    )
