"""Loss and counts of pair logits, shared by every form of the relation loss."""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Loss = Literal["focal", "bce"]


class PairStatistics(NamedTuple):
    """Over the pairs of one step: counts, and sums of log-likelihoods (nats) of the right answers.

    Tensors are 0-d on the device of the features, counts int64; reading one waits for it. A logit above 0 says "same
    image". Positives and negatives are counted by their targets; the paper's code takes the two halves of its
    predictions instead, although its positive and negative blocks alternate.
    """

    correct_positive: Tensor
    positives: int
    correct_negative: Tensor
    negatives: int
    likelihood_positive: Tensor
    likelihood_negative: Tensor


def pair_objective(positive: Tensor, negative: Tensor, loss: Loss, gamma: float, alpha: float = 0.5) -> Tensor:
    """Mean loss over the logits of positive and of negative pairs (any shapes, ``negative`` may be empty).

    ``bce`` is the binary cross-entropy; ``focal`` weighs each pair with ``a (1 - p_t)^gamma``, p_t the probability of
    the right answer, a = alpha for positives and 1 - alpha for negatives (paper, section 1.2 of the method: w_p;
    alpha = 0.5 and gamma = 2 in the paper's code).
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}")
    wrong = torch.cat((-positive.flatten(), negative.flatten()))  # logit of the wrong answer
    balance = pair_balance(wrong, slice(positive.numel()), loss, alpha)
    return _MeanOverPairs.apply(wrong, loss, gamma, balance)


def pair_balance(wrong_P: Tensor, positives: slice, loss: Loss, alpha: float) -> Tensor | float:
    """The factor of each pair, ``(P,)``, or of all of them."""
    if loss == "bce":
        return 1.0
    if alpha == 0.5:
        return alpha
    balance_P = wrong_P.new_full((wrong_P.numel(),), 1 - alpha)
    balance_P[positives] = alpha
    return balance_P


def loss_and_slopes(wrong_P: Tensor, loss: Loss, gamma: float, balance: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean loss over logits of the wrong answer, and its derivative by each of them, ``(P,)``.

    With s = sigmoid(w) and c = softplus(w), the focal loss of a pair is ``a s^gamma c`` and its derivative
    ``a s^gamma (gamma (1 - s) c + s)``; the cross-entropy alone is c, with derivative s. Written out because autograd
    takes five times as many operations, and because it multiplies 0 by infinity at ``s = 0`` for gamma < 1.
    """
    sigmoid_P = torch.sigmoid(wrong_P)
    cross_entropy_P = -F.logsigmoid(-wrong_P)  # softplus itself cuts off at 20
    count = max(1, wrong_P.numel())
    if loss == "bce":
        return cross_entropy_P.mean(), sigmoid_P / count
    weight_P = sigmoid_P.pow(gamma) * (balance / count)
    slopes_P = weight_P * torch.addcmul(sigmoid_P, 1 - sigmoid_P, cross_entropy_P, value=gamma)
    return (weight_P * cross_entropy_P).sum(), slopes_P


class _MeanOverPairs(torch.autograd.Function):
    """``loss_and_slopes`` as one node of the graph; it has first derivatives only."""

    @staticmethod
    def forward(ctx: Any, wrong: Tensor, loss: Loss, gamma: float, balance: Tensor | float) -> Tensor:
        value, slopes = loss_and_slopes(wrong, loss, gamma, balance)
        ctx.save_for_backward(slopes)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return grad_value * slopes, None, None, None


@torch.no_grad()
def count_pairs(positive: Tensor, negative: Tensor) -> PairStatistics:
    """Count right answers among logits, and add up their log-likelihoods, without waiting for the device."""
    return PairStatistics(
        (positive > 0).sum(),
        positive.numel(),
        (negative <= 0).sum(),
        negative.numel(),
        F.logsigmoid(positive).sum(),
        F.logsigmoid(-negative).sum(),
    )
