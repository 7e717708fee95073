"""The relation loss in plain torch, for any device and any dtype that is at least float32.

A linear layer maps a concatenation to a sum, W [z_i; z_j] + b = W_a z_i + (W_b z_j + b). The first layer is therefore
applied once to each of the K·M representations, and the results are added for each pair. The aggregations `sum` and
`mean` have the same property. `max` does not, so the first layer is applied to every pair, as it is with two views or
if this layer is not a plain `nn.Linear`.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rr.compute.minimum_precision import at_least_float32
from rr.compute.plain_layers import is_plain
from rr.methods.relation.pair_loss import PairLossConfig, PairStatistics, pair_loss, pair_statistics

if TYPE_CHECKING:
    from rr.methods.relation.head import RelationHead


def factorized_relation_loss(
    head: "RelationHead",
    features_KMD: Tensor,
    negative_rows: Tensor,
    positive_rows: Tensor | None,
    config: PairLossConfig,
) -> tuple[Tensor, PairStatistics]:
    """Return what `relation_loss` returns, with few kernel launches and without waiting for the device.

    Under autocast, the matrix products of the first layer run in low precision. Everything after them is computed in at
    least float32.
    """
    K, M, D = features_KMD.shape
    rows_ND = features_KMD.reshape(K * M, D)
    if K == 2:  # there are as many pairs as rows, so factorization would not save any work
        left_PD, right_PD = features_KMD.unbind(0)
        positive_PD = right_PD if positive_rows is None else right_PD.index_select(0, positive_rows[0])
        if M > 1:
            left_PD = torch.cat((left_PD, left_PD))
            right_PD = torch.cat((positive_PD, right_PD.index_select(0, negative_rows[0])))
        hidden_PH = at_least_float32(head.linear(head.aggregate(left_PD, right_PD)))
    else:
        left_P, right_P = pair_row_indices(K, M, negative_rows, positive_rows)
        if head.aggregation != "max" and is_plain(head.linear, nn.Linear):
            left_NH, right_NH = left_and_right_hidden_terms(head, rows_ND)
            hidden_PH = left_NH.index_select(0, left_P) + right_NH.index_select(0, right_P)
        else:
            pairs_PI = head.aggregate(rows_ND.index_select(0, left_P), rows_ND.index_select(0, right_P))
            hidden_PH = at_least_float32(head.linear(pairs_PI))
    with torch.autocast(features_KMD.device.type, enabled=False):
        logits_P = head.output(head.activation(head.norm(hidden_PH))).squeeze(1)
        positive, negative = logits_P.split((len(logits_P) - negative_rows.numel(), negative_rows.numel()))
        return pair_loss(positive, negative, config), pair_statistics(positive, negative)


def pair_row_indices(
    num_views: int, num_images: int, negative_rows: Tensor, positive_rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the row indices of the left and right representation of every pair, int64 (P,) each.

    The indices count the K·M representations in view-major order. All positive pairs come first, then all negative
    pairs.
    """
    left_Q, right_Q = torch.triu_indices(num_views, num_views, offset=1, device=negative_rows.device)
    image_M = torch.arange(num_images, device=negative_rows.device)
    left_QM = left_Q[:, None] * num_images + image_M
    positive_QM = right_Q[:, None] * num_images + (image_M if positive_rows is None else positive_rows)
    if num_images == 1:
        return left_QM.flatten(), positive_QM.flatten()
    negative_QM = right_Q[:, None] * num_images + negative_rows
    return torch.cat((left_QM, left_QM)).flatten(), torch.cat((positive_QM, negative_QM)).flatten()


def left_and_right_hidden_terms(head: "RelationHead", rows_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each row contributes to the hidden layer as the left and the right row of a pair.

    Returns:
        Two tensors (N, H), at least float32. The second one includes the bias.

    Raises:
        ValueError: if the aggregation is `max`, which has no such terms.
    """
    weight, bias = head.linear.weight, head.linear.bias
    if head.aggregation == "cat":
        weight_left, weight_right = weight.chunk(2, dim=1)
        left_NH = at_least_float32(F.linear(rows_ND, weight_left))
        return left_NH, at_least_float32(F.linear(rows_ND, weight_right, bias))
    if head.aggregation == "sum":
        left_NH = at_least_float32(F.linear(rows_ND, weight))
    elif head.aggregation == "mean":
        left_NH = at_least_float32(F.linear(rows_ND, weight)) / 2
    else:
        raise ValueError(f"with aggregation {head.aggregation!r}, the first layer is not a sum of one term per row")
    return left_NH, left_NH if bias is None else left_NH + bias
