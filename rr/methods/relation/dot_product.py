"""The paper's head ablation: the product of two representations, or of two encoded ones, as a pair's logit."""

import torch
from torch import Tensor

from rr.compute.precision import at_least_float32
from rr.methods.relation.factorised import pair_rows
from rr.methods.relation.objective import Loss, PairStatistics, count_pairs, pair_objective


def dot_loss(
    features_KMD: Tensor,
    partners: Tensor,
    positives: Tensor | None = None,
    *,
    loss: Loss = "focal",
    gamma: float = 2.0,
    alpha: float = 0.5,
) -> tuple[Tensor, PairStatistics]:
    """Loss and counts of all pairs, whose logits are ⟨z_i, z_j⟩, raw (paper, head ablation a and b).

    Arguments as in ``rr.methods.relation.loss.relation_loss``. All products are one matrix, (K M)², from which the pairs
    are read. At least float32 under autocast. Raises ValueError for an unknown loss.
    """
    K, M, D = features_KMD.shape
    left_P, right_P = pair_rows(K, M, partners, positives)
    with torch.autocast(features_KMD.device.type, enabled=False):
        rows_ND = at_least_float32(features_KMD.reshape(K * M, D))
        logits_P = (rows_ND @ rows_ND.T).flatten().index_select(0, left_P * (K * M) + right_P)
        positive, negative = logits_P.split((len(logits_P) - partners.numel(), partners.numel()))
        return pair_objective(positive, negative, loss, gamma, alpha), count_pairs(positive, negative)
