"""Reference for the relation loss. It passes all pairs through the head."""

import torch
from torch import Tensor

from rr.methods.relation.head import RelationHead
from rr.methods.relation.loss import check_tensors


def direct_logits_and_targets(
    head: RelationHead, features_KMD: Tensor, negative_rows: Tensor, positive_rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pass all pairs through the head in one batch, and return logits and targets (Algorithm 1, steps 3 and 4).

    The arguments are those of `relation_loss`. Memory grows with the number of pairs, P = M(K² - K), or half of that
    if M = 1.

    Returns:
        Logits and targets, (P,) each, in the order of the paper's code: for each pair of views, M positive pairs and
        then M negative pairs.

    Raises:
        ValueError: if a tensor has an invalid shape, dtype or device.
    """
    check_tensors(head, features_KMD, negative_rows, positive_rows)
    K, M, _ = features_KMD.shape
    blocks = []
    targets = []
    pair = 0
    for i in range(K):
        for j in range(i + 1, K):
            positive_MD = features_KMD[j] if positive_rows is None else features_KMD[j][positive_rows[pair]]
            blocks.append(head.aggregate(features_KMD[i], positive_MD))
            targets.append(features_KMD.new_ones(M))
            if M > 1:
                blocks.append(head.aggregate(features_KMD[i], features_KMD[j][negative_rows[pair]]))
                targets.append(features_KMD.new_zeros(M))
            pair += 1
    return head(torch.cat(blocks)), torch.cat(targets)
