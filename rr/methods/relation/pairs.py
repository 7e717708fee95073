"""Which representations are compared with which: view pairs and the rows of their negative partners.

A mini-batch holds K augmented views of M images. For every pair of views i < j, row m of view i is compared with row m
of view j (a positive: the same image) and with row ``partners[pair, m]`` of view j (a negative: another image).
"""

import torch
from torch import Tensor


def view_pairs(K: int, *, device: torch.device | None = None) -> Tensor:
    """All pairs of views i < j in lexicographic order, int64 ``(K(K-1)/2, 2)``.

    Raises ValueError for K < 2: one view of an image cannot be compared with itself.
    """
    _check_views(K)
    return torch.triu_indices(K, K, offset=1, device=device).T.contiguous()


def roll_partners(K: int, M: int, *, device: torch.device | None = None) -> Tensor:
    """Negative partners of the paper's code: view j rolled cyclically by s rows, int64 ``(K(K-1)/2, M)``.

    s is 1 for the first view pair, grows by 1 per pair and returns to 1 when it reaches M, so it is never the identity.
    As with ``torch.roll``, row m of view i meets row ``(m - s) mod M`` of view j. Nothing is random.

    A mini-batch of one image has no other image: the result is then empty, ``(K(K-1)/2, 0)``. (The paper's code would
    compare the image with itself and call it a negative.) Raises ValueError for K < 2 or M < 1.
    """
    number_of_pairs = _count_view_pairs(K, M)
    if M == 1:
        return torch.empty(number_of_pairs, 0, dtype=torch.int64, device=device)
    shifts = 1 + torch.arange(number_of_pairs, device=device) % (M - 1)
    return (torch.arange(M, device=device) - shifts[:, None]) % M


def random_partners(K: int, M: int, generator: torch.Generator) -> Tensor:
    """Negative partners of Algorithm 1: per row uniform over all other rows, int64 ``(K(K-1)/2, M)``.

    Rows are drawn independently (so a partner may serve several rows), on the generator's device. A mini-batch of one
    image gives an empty ``(K(K-1)/2, 0)``. Raises ValueError for K < 2 or M < 1.
    """
    number_of_pairs = _count_view_pairs(K, M)
    if M == 1:
        return torch.empty(number_of_pairs, 0, dtype=torch.int64, device=generator.device)
    other_rows = torch.randint(M - 1, (number_of_pairs, M), generator=generator, device=generator.device)
    own_rows = torch.arange(M, device=generator.device)
    return other_rows + (other_rows >= own_rows)  # skip the row itself


def class_partners(labels_M: Tensor, uniform_QM: Tensor) -> Tensor:
    """Positive partners by class: per row uniform over all rows known to be of its class, itself among them.

    Args:
        labels_M: int64; a row without a label, -1, has itself alone.
        uniform_QM: numbers in [0, 1) that choose.

    Returns int64 ``(Q, M)``.
    """
    return _choose(_known_alike(labels_M), uniform_QM)


def other_class_partners(labels_M: Tensor, partners_QM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Negative partners, of which those known to be of the row's class are drawn anew from the rows that are not.

    A row whose class is known to be that of every other row keeps its partner. Arguments as in ``class_partners``.
    """
    alike_MM = _known_alike(labels_M)
    rows_M = torch.arange(len(labels_M), device=labels_M.device)
    wrong_QM = alike_MM[rows_M, partners_QM] & ~alike_MM.all(1)
    return torch.where(wrong_QM, _choose(~alike_MM, uniform_QM), partners_QM)


def _known_alike(labels_M: Tensor) -> Tensor:
    same_MM = (labels_M[:, None] == labels_M) & (labels_M >= 0)
    return same_MM | torch.eye(len(labels_M), dtype=torch.bool, device=labels_M.device)


def _choose(allowed_MM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Per row m one of the columns that its row of ``allowed`` permits; column 0 if there is none."""
    columns_MM = torch.argsort(~allowed_MM, dim=1, stable=True)  # those permitted first, in order
    count_M = allowed_MM.sum(1)
    place_QM = torch.minimum((uniform_QM * count_M).long(), (count_M - 1).clamp(min=0))
    return columns_MM.gather(1, place_QM.T).T


def _check_views(K: int) -> None:
    if K < 2:
        raise ValueError(f"relational reasoning compares views of an image: K must be at least 2, got {K}")


def _count_view_pairs(K: int, M: int) -> int:
    _check_views(K)
    if M < 1:
        raise ValueError(f"a mini-batch holds at least one image, got M = {M}")
    return K * (K - 1) // 2
