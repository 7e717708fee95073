"""The relation loss in plain torch, for any device and dtype: the first linear layer once per row, then pairs.

A linear layer of a concatenation is a sum, ``W [z_i; z_j] + b = W_a z_i + (W_b z_j + b)``, so it is applied to the K M
rows once and pairs are added afterwards. The same holds for sums and means, but not for an element-wise maximum.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rr.compute.precision import at_least_float32
from rr.methods.relation.objective import Loss, PairStatistics, count_pairs, pair_objective
from rr.methods.relation.pairs import view_pairs

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


def factorised_loss(
    head: "RelationHead",
    features_KMD: Tensor,
    partners: Tensor,
    loss: Loss,
    gamma: float,
    alpha: float = 0.5,
    positives: Tensor | None = None,
) -> tuple[Tensor, PairStatistics]:
    """Loss and counts of all pairs; arguments as in ``relation_loss``. Few launches, no host synchronisation.

    Under autocast the two matrix products of the first layer run in the low precision; pairs, batch statistics and loss
    are at least float32.
    """
    K, M, D = features_KMD.shape
    rows_ND = features_KMD.reshape(K * M, D)
    if K == 2:  # as many pairs as rows: nothing to save in the first layer
        left_PD, right_PD = features_KMD.unbind(0)
        same_PD = right_PD if positives is None else right_PD.index_select(0, positives[0])
        if M > 1:
            left_PD = torch.cat((left_PD, left_PD))
            right_PD = torch.cat((same_PD, right_PD.index_select(0, partners[0])))
        hidden_PH = at_least_float32(head.linear(head.aggregate(left_PD, right_PD)))
    elif head.aggregation == "max":
        left_P, right_P = pair_rows(K, M, partners, positives)
        pairs_PD = torch.maximum(rows_ND.index_select(0, left_P), rows_ND.index_select(0, right_P))
        hidden_PH = at_least_float32(head.linear(pairs_PD))
    else:
        left_P, right_P = pair_rows(K, M, partners, positives)
        first_NH, second_NH = row_terms(head, rows_ND)
        hidden_PH = first_NH.index_select(0, left_P) + second_NH.index_select(0, right_P)
    with torch.autocast(features_KMD.device.type, enabled=False):
        logits_P = head.output(head.activation(head.norm(hidden_PH))).squeeze(1)
        positive, negative = logits_P.split((len(logits_P) - partners.numel(), partners.numel()))
        return pair_objective(positive, negative, loss, gamma, alpha), count_pairs(positive, negative)


def pair_rows(K: int, M: int, partners: Tensor, positives: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows (of K M, view-major) on the left and right of every pair, int64 ``(P,)``: all positives, then negatives."""
    first_Q, second_Q = view_pairs(K, device=partners.device).unbind(1)
    own_M = torch.arange(M, device=partners.device)
    left_QM = first_Q[:, None] * M + own_M
    positive_QM = second_Q[:, None] * M + (own_M if positives is None else positives)
    if M == 1:
        return left_QM.flatten(), positive_QM.flatten()
    negative_QM = second_Q[:, None] * M + partners
    return torch.cat((left_QM, left_QM)).flatten(), torch.cat((positive_QM, negative_QM)).flatten()


def row_terms(head: "RelationHead", rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """What a row adds to the hidden layer as first and as second of a pair, ``(N, H)`` each; the bias is in the second.

    Raises ValueError for ``max``, which has no such terms.
    """
    weight, bias = head.linear.weight, head.linear.bias
    if head.aggregation == "cat":
        weight_first, weight_second = weight.chunk(2, dim=1)
        first_NH = at_least_float32(F.linear(rows_ND, weight_first))
        return first_NH, at_least_float32(F.linear(rows_ND, weight_second, bias))
    if head.aggregation == "sum":
        first_NH = at_least_float32(F.linear(rows_ND, weight))
    elif head.aggregation == "mean":
        first_NH = at_least_float32(F.linear(rows_ND, weight)) / 2
    else:
        raise ValueError(f"a linear layer of the {head.aggregation} of two rows is no sum of row terms")
    return first_NH, first_NH + bias
