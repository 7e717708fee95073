"""The paper's head ablation: a pair's logit is the dot product of two (possibly encoded) representations."""

import torch
from torch import Tensor

from rr.compute.minimum_precision import at_least_float32
from rr.methods.relation.factorized import pair_row_indices
from rr.methods.relation.pair_loss import PAPER_PAIR_LOSS, PairLossConfig, PairStatistics, pair_loss, pair_statistics


def dot_product_loss(
    features_KMD: Tensor,
    negative_rows: Tensor,
    positive_rows: Tensor | None = None,
    config: PairLossConfig = PAPER_PAIR_LOSS,
) -> tuple[Tensor, PairStatistics]:
    """Return the loss and the statistics of all pairs; a pair's logit is ⟨z_i, z_j⟩ (paper, head ablations a and b).

    The arguments are those of `rr.methods.relation.relation_loss`. The products are the entries of a single K·M × K·M
    matrix. The loss is computed in at least float32, even under autocast.
    """
    K, M, D = features_KMD.shape
    left_P, right_P = pair_row_indices(K, M, negative_rows, positive_rows)
    with torch.autocast(features_KMD.device.type, enabled=False):
        rows_ND = at_least_float32(features_KMD.reshape(K * M, D))
        logits_P = (rows_ND @ rows_ND.T).flatten().index_select(0, left_P * (K * M) + right_P)
        positive, negative = logits_P.split((len(logits_P) - negative_rows.numel(), negative_rows.numel()))
        return pair_loss(positive, negative, config), pair_statistics(positive, negative)
