"""The loss of pair logits, and counts of correct predictions. All implementations of the relation loss use them."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PairLossKind = Literal["focal", "bce"]


@dataclass(frozen=True)
class PairLossConfig:
    """The loss function of pairs. The defaults are those of the paper's code.

    Attributes:
        kind: `bce` is the mean binary cross-entropy. `focal` is the mean of a (1 - p_t)^gamma times the cross-entropy,
            in which p_t is the probability of the correct answer (the paper's w_p, method section 1.2).
        gamma: The focal exponent, at least 0. Not used by `bce`.
        alpha: The factor a of positive pairs, in (0, 1); that of negative pairs is 1 - alpha. Not used by `bce`.

    Raises:
        ValueError: If a value is not one of these.
    """

    kind: PairLossKind = "focal"
    gamma: float = 2.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in get_args(PairLossKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(PairLossKind))}, got {self.kind!r}")
        if self.gamma < 0:
            raise ValueError(f"gamma must not be negative, got {self.gamma}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {self.alpha}")


PAPER_PAIR_LOSS = PairLossConfig()


class PairStatistics(NamedTuple):
    """Counts over the pairs of one step, and sums of the log-likelihoods (in nats) of the correct answers.

    Tensors are 0-d on the device of the features, and the counts among them are int64. A logit above 0 predicts "same
    image". Positives and negatives are counted by their targets. The paper's code splits its predictions into two
    halves instead, although positive and negative blocks alternate in them.
    """

    correct_positives: Tensor
    num_positives: int
    correct_negatives: Tensor
    num_negatives: int
    log_likelihood_positives: Tensor
    log_likelihood_negatives: Tensor


def pair_loss(positive: Tensor, negative: Tensor, config: PairLossConfig) -> Tensor:
    """Return the mean loss over the logits of positive and negative pairs; `negative` may be empty."""
    wrong_P = torch.cat((-positive.flatten(), negative.flatten()))
    return _MeanPairLoss.apply(wrong_P, config, alpha_weights(wrong_P, slice(positive.numel()), config))


def alpha_weights(wrong_P: Tensor, positives: slice, config: PairLossConfig) -> Tensor | float:
    """Return the alpha factor of each pair, (P,), or a single factor if all pairs have the same."""
    if config.kind == "bce":
        return 1.0
    if config.alpha == 0.5:
        return config.alpha
    alpha_P = wrong_P.new_full((wrong_P.numel(),), 1 - config.alpha)
    alpha_P[positives] = config.alpha
    return alpha_P


def loss_and_grad(wrong_P: Tensor, config: PairLossConfig, alpha: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the mean loss, and its derivative with respect to each logit.

    Let s = sigmoid(w) and c = softplus(w). The cross-entropy of a pair is c, with derivative s. Its focal loss is
    a s^gamma c, with derivative a s^gamma (gamma (1 - s) c + s). The derivatives are explicit because autograd needs
    five times as many operations, and because it multiplies 0 by infinity at s = 0 for gamma < 1.

    Args:
        wrong_P: The logit w of the wrong answer to each pair, (P,).
        config: The loss function.
        alpha: What `alpha_weights` returned for these pairs.

    Returns:
        The loss, 0-d, and the derivative, (P,).
    """
    sigmoid_P = torch.sigmoid(wrong_P)
    cross_entropy_P = -F.logsigmoid(-wrong_P)  # F.softplus is linear above 20
    count = max(1, wrong_P.numel())
    if config.kind == "bce":
        return cross_entropy_P.mean(), sigmoid_P / count
    weight_P = sigmoid_P.pow(config.gamma) * (alpha / count)
    grad_P = weight_P * torch.addcmul(sigmoid_P, 1 - sigmoid_P, cross_entropy_P, value=config.gamma)
    return (weight_P * cross_entropy_P).sum(), grad_P


class _MeanPairLoss(torch.autograd.Function):
    """`loss_and_grad` as a single node of the autograd graph. It has first derivatives only."""

    @staticmethod
    def forward(ctx: Any, wrong_P: Tensor, config: PairLossConfig, alpha: Tensor | float) -> Tensor:
        loss, grad_P = loss_and_grad(wrong_P, config, alpha)
        ctx.save_for_backward(grad_P)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (grad_P,) = ctx.saved_tensors
        return grad_loss * grad_P, None, None


@torch.no_grad()
def pair_statistics(positive: Tensor, negative: Tensor) -> PairStatistics:
    """Count correct predictions among logits and sum their log-likelihoods, without waiting for the device."""
    return PairStatistics(
        correct_positives=(positive > 0).sum(),
        num_positives=positive.numel(),
        correct_negatives=(negative <= 0).sum(),
        num_negatives=negative.numel(),
        log_likelihood_positives=F.logsigmoid(positive).sum(),
        log_likelihood_negatives=F.logsigmoid(-negative).sum(),
    )
