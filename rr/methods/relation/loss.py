"""The relation head and its loss: do two representations come from the same image?

``direct_logits`` is the readable reference. ``relation_loss`` computes the same loss by applying the first linear layer
once per view row instead of once per pair; it is what training uses.
"""

import contextlib
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from rr.compute.device import one_thread
from rr.methods.relation.chunked_max import chunked_max_loss
from rr.methods.relation.factorised import factorised_loss
from rr.methods.relation.head import Aggregation, RelationHead
from rr.methods.relation.objective import Loss, PairStatistics

__all__ = ["Aggregation", "Loss", "PairStatistics", "RelationHead", "direct_logits", "relation_loss"]


# Up to this many views the torch form is faster than the forms without arrays of P rows.
SMALL_K = 3
SMALL_K_MAX = 8  # the same for ``max``
SERIAL_WORK = 1_000_000  # pairs times hidden units below which a second thread costs more than it saves
SERIAL_FEATURES = 64  # inputs of the first layer that cost a view as much as one partner does


def direct_logits(
    head: RelationHead, features_KMD: Tensor, partners: Tensor, positives: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The reference: build every pair and send all of them through the head at once (Algorithm 1, steps 3 and 4).

    Args:
        features_KMD: representations of K views of M images.
        partners: ``(K(K-1)/2, M)`` int64 rows of the negatives, see ``rr.methods.relation.pairs``; ``(.., 0)`` if M = 1.
        positives: ``(K(K-1)/2, M)`` int64 rows of the positives; None for each image's own.

    Returns logits and targets ``(P,)`` in the order of the paper's code: for each view pair M positives, then M
    negatives. P = M(K^2 - K), or half of that if M = 1. Memory grows with P. Raises ValueError for unfit shapes.
    """
    _check_shapes(head, features_KMD, partners, positives)
    K, M, _ = features_KMD.shape
    blocks = []
    targets = []
    pair = 0
    for i in range(K):
        for j in range(i + 1, K):
            same = features_KMD[j] if positives is None else features_KMD[j][positives[pair]]
            blocks.append(head.aggregate(features_KMD[i], same))
            targets.append(features_KMD.new_ones(M))
            if M > 1:
                blocks.append(head.aggregate(features_KMD[i], features_KMD[j][partners[pair]]))
                targets.append(features_KMD.new_zeros(M))
            pair += 1
    return head(torch.cat(blocks)), torch.cat(targets)


def relation_loss(
    head: RelationHead,
    features_KMD: Tensor,
    partners: Tensor,
    positives: Tensor | None = None,
    *,
    loss: Loss = "focal",
    gamma: float = 2.0,
    alpha: float = 0.5,
) -> tuple[Tensor, PairStatistics]:
    """The loss of all pairs and how many of them were told apart, without building the pairs.

    Args:
        features_KMD: representations of K views of M images.
        partners: ``(K(K-1)/2, M)`` int64 rows of the negatives, see ``rr.methods.relation.pairs``; ``(.., 0)`` if M = 1, where
            the loss is over positives only.
        positives: ``(K(K-1)/2, M)`` int64 rows of the positives; None for each image's own (the paper's method).
        loss: ``focal`` is the mean of ``a (1 - p_t)^gamma BCE`` (the paper's code), ``bce`` the plain mean.
        gamma: focal exponent, at least 0; not used by ``bce``.
        alpha: the focal factor a of positives, 1 - alpha that of negatives; in (0, 1), not used by ``bce``.

    A head in training mode normalises with the statistics of all P pairs and updates its running statistics as
    ``BatchNorm1d`` does. On a CPU, float32 features of more than ``SMALL_K`` views take the fused kernel, or those of
    more than ``SMALL_K_MAX`` views for ``max`` a loop over first views; neither holds an array of P rows, and both have
    first derivatives only. Everything else takes the torch form.

    Raises ValueError for unfit shapes, an unknown loss, a negative gamma, partners out of range (checked on the CPU
    only, as reading them from another device would stall it), or a single pair to be normalised in training mode
    (K = 2 with M = 1).
    """
    _check_shapes(head, features_KMD, partners, positives)
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}")
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    K, M, _ = features_KMD.shape
    if head.norm.training and K == 2 and M == 1:
        raise ValueError("K = 2 views of M = 1 image make a single pair, which has no batch statistics")
    for rows in (partners, positives):
        if rows is None or rows.device.type != "cpu" or not rows.numel() or torch.compiler.is_compiling():
            continue
        lowest, highest = rows.aminmax()
        if lowest < 0 or highest >= M:
            raise ValueError(f"partners must be rows of the mini-batch, 0 to {M - 1}")
    work = K * M * max(K - 1, head.linear.in_features // SERIAL_FEATURES) * len(head.linear.weight)
    alone = features_KMD.device.type == "cpu" and work < SERIAL_WORK
    with one_thread() if alone and not torch.compiler.is_compiling() else contextlib.nullcontext():
        return _form_for(head, features_KMD)(head, features_KMD, partners, loss, gamma, alpha, positives)


def _form_for(head: RelationHead, features_KMD: Tensor) -> Callable[..., tuple[Tensor, PairStatistics]]:
    if not _cpu_form_applies(head, features_KMD):
        return factorised_loss
    if head.aggregation == "max":
        return chunked_max_loss
    from rr.methods.relation.fused import fused_loss  # numba takes a while to import

    return fused_loss


def _cpu_form_applies(head: RelationHead, features_KMD: Tensor) -> bool:
    """Whether there is a form without arrays of P rows, and views enough for it to pay."""
    weight = head.linear.weight
    plain_norm = head.norm.momentum is not None and head.norm.affine and head.norm.track_running_stats
    return (
        features_KMD.device.type == weight.device.type == "cpu"
        and features_KMD.dtype == weight.dtype
        and weight.dtype in ((torch.float32, torch.float64) if head.aggregation == "max" else (torch.float32,))
        and plain_norm
        and features_KMD.shape[0] > (SMALL_K_MAX if head.aggregation == "max" else SMALL_K)
        and not torch.compiler.is_compiling()
    )


def _check_shapes(head: RelationHead, features_KMD: Tensor, partners: Tensor, positives: Tensor | None) -> None:
    if features_KMD.ndim != 3:
        raise ValueError(f"features must be (views K, images M, size D), got shape {tuple(features_KMD.shape)}")
    K, M, D = features_KMD.shape
    if K < 2 or M < 1:
        raise ValueError(f"at least 2 views of 1 image are needed, got K = {K}, M = {M}")
    if head.features != D:
        raise ValueError(f"the head expects features of size {head.features}, got {D}")
    expected = (K * (K - 1) // 2, M if M > 1 else 0)
    if tuple(partners.shape) != expected:
        raise ValueError(f"partners must have shape {expected} for K = {K}, M = {M}, got {tuple(partners.shape)}")
    if positives is not None and (tuple(positives.shape) != (K * (K - 1) // 2, M) or positives.dtype != torch.int64):
        raise ValueError(f"positives must be int64 of shape {(K * (K - 1) // 2, M)}, got {tuple(positives.shape)}")
    if partners.dtype != torch.int64:
        raise ValueError(f"partners must be int64, got {partners.dtype}")
    if partners.device != features_KMD.device:
        raise ValueError(f"partners are on {partners.device}, features on {features_KMD.device}")
