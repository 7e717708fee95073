"""Pairs of views, and the rows that serve as positive and negative partners.

A mini-batch contains K augmented views of M images. For every pair of views i < j, row m of view i is compared with row
m of view j (a positive: the same image) and with row `partners[pair, m]` of view j (a negative: another image).

Shapes: Q = K(K-1)/2 pairs of views, M images.
"""

import torch
from torch import Tensor


def view_pairs(K: int, *, device: torch.device | None = None) -> Tensor:
    """Return all pairs of views i < j in lexicographic order, int64 (Q, 2).

    Raises:
        ValueError: If K < 2.
    """
    _check_num_views(K)
    return torch.triu_indices(K, K, offset=1, device=device).T.contiguous()


def roll_partners(K: int, M: int, *, device: torch.device | None = None) -> Tensor:
    """Return the negative partners of the paper's code: view j is rolled cyclically by s rows.

    The shift s is 1 for the first pair of views, grows by 1 per pair and returns to 1 when it reaches M, so no row
    becomes its own partner. As with `torch.roll`, the partner of row m is row (m - s) mod M.

    Returns:
        Int64 (Q, M). For a single image, which has no negatives, the shape is (Q, 0). (The paper's code would compare
        that image with itself and call the pair a negative.)

    Raises:
        ValueError: If K < 2 or M < 1.
    """
    num_pairs = _num_view_pairs(K, M)
    if M == 1:
        return torch.empty(num_pairs, 0, dtype=torch.int64, device=device)
    shifts = 1 + torch.arange(num_pairs, device=device) % (M - 1)
    return (torch.arange(M, device=device) - shifts[:, None]) % M


def random_partners(K: int, M: int, generator: torch.Generator) -> Tensor:
    """Sample the negative partners of Algorithm 1: for each row, uniformly from all other rows.

    Rows are sampled independently, so several rows may have the same partner.

    Returns:
        Int64 (Q, M) on the generator's device. For a single image, the shape is (Q, 0).

    Raises:
        ValueError: If K < 2 or M < 1.
    """
    num_pairs = _num_view_pairs(K, M)
    if M == 1:
        return torch.empty(num_pairs, 0, dtype=torch.int64, device=generator.device)
    other_QM = torch.randint(M - 1, (num_pairs, M), generator=generator, device=generator.device)
    own_M = torch.arange(M, device=generator.device)
    return other_QM + (other_QM >= own_M)  # skip the row itself


def same_class_partners(labels_M: Tensor, uniform_QM: Tensor) -> Tensor:
    """Choose positive partners by class: for each row, uniformly from the rows of its class, including itself.

    Args:
        labels_M: Int64. The partner of a row without a label, -1, is the row itself.
        uniform_QM: Random numbers in [0, 1), which determine the choice.

    Returns:
        Int64 (Q, M).
    """
    return _choose_columns(_same_class_mask(labels_M), uniform_QM)


def other_class_partners(labels_M: Tensor, partners_QM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Replace the negative partners that belong to the class of their row by rows that do not.

    A row keeps its partner if all rows belong to its class.

    Args:
        labels_M: Int64; -1 for an unknown class, which differs from every other.
        partners_QM: The negative partners, int64.
        uniform_QM: Random numbers in [0, 1), which determine the choice.

    Returns:
        Int64 (Q, M).
    """
    same_MM = _same_class_mask(labels_M)
    rows_M = torch.arange(len(labels_M), device=labels_M.device)
    replace_QM = same_MM[rows_M, partners_QM] & ~same_MM.all(1)
    return torch.where(replace_QM, _choose_columns(~same_MM, uniform_QM), partners_QM)


def _same_class_mask(labels_M: Tensor) -> Tensor:
    same_MM = (labels_M[:, None] == labels_M) & (labels_M >= 0)
    return same_MM | torch.eye(len(labels_M), dtype=torch.bool, device=labels_M.device)


def _choose_columns(allowed_MM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Choose one of the allowed columns of each row, (Q, M); column 0 if a row allows none."""
    columns_MM = torch.argsort(~allowed_MM, dim=1, stable=True)  # the allowed columns first, in ascending order
    count_M = allowed_MM.sum(1)
    rank_QM = torch.minimum((uniform_QM * count_M).long(), (count_M - 1).clamp(min=0))
    return columns_MM.gather(1, rank_QM.T).T


def _check_num_views(K: int) -> None:
    if K < 2:
        raise ValueError(f"relational reasoning compares views of an image: K must be at least 2, got {K}")


def _num_view_pairs(K: int, M: int) -> int:
    _check_num_views(K)
    if M < 1:
        raise ValueError(f"a mini-batch must contain at least one image, got M = {M}")
    return K * (K - 1) // 2
