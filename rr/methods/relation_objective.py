"""Loss and counts of pair logits, shared by every form of the relation loss."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["focal", "bce"]


class PairStatistics(NamedTuple):
    """Counts over the pairs of one step, int64 0-d tensors on the device of the features (reading one waits for it).

    A logit above 0 says "same image". Positives and negatives are counted by their targets; the paper's code takes the
    two halves of its predictions instead, although its positive and negative blocks alternate.
    """

    correct_positive: Tensor
    positives: Tensor
    correct_negative: Tensor
    negatives: Tensor


def pair_objective(positive: Tensor, negative: Tensor, loss: Loss, gamma: float) -> Tensor:
    """Mean loss over the logits of positive and of negative pairs (any shapes, ``negative`` may be empty).

    ``bce`` is the binary cross-entropy; ``focal`` weighs each pair with ``0.5 (1 - p_t)^gamma``, p_t the probability of
    the right answer (paper, section 1.2 of the method: w_p; alpha = 0.5 and gamma = 2 in the paper's code).
    """
    wrong = torch.cat((-positive.flatten(), negative.flatten()))  # logit of the wrong answer
    cross_entropy = -F.logsigmoid(-wrong)  # softplus cuts off at 20
    if loss == "bce":
        return cross_entropy.mean()
    return 0.5 * (torch.sigmoid(wrong).pow(gamma) * cross_entropy).mean()


@torch.no_grad()
def count_pairs(positive: Tensor, negative: Tensor) -> PairStatistics:
    """Count right answers among logits, without waiting for the device."""
    return PairStatistics(
        (positive > 0).sum(),
        torch.full((), positive.numel(), dtype=torch.int64, device=positive.device),
        (negative <= 0).sum(),
        torch.full((), negative.numel(), dtype=torch.int64, device=negative.device),
    )
