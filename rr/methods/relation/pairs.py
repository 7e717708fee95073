"""Pairs of views, and the rows that are the positive and negative partners of each row.

A mini-batch contains K augmented views of M images. For every pair of views i < j, row m of view i is compared with row
m of view j (a positive: the same image) and with row `negative_rows[pair, m]` of view j (a negative: another image).

Notation: with K = `num_views` views of M = `num_images` images, there are Q = K(K-1)/2 pairs of views.
"""

import operator

import torch
from torch import Tensor


def partners(
    num_views: int,
    num_images: int,
    generator: torch.Generator | None = None,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the row of each image's negative partner, for each pair of views.

    Args:
        num_views: number of views of each image, K, at least 2.
        num_images: number of images in the mini-batch, M.
        generator: if this is not None, the partners are random, as in Algorithm 1 of the paper. By default, they are
            the same in every mini-batch, as in the paper's code.
        device: device of the result.

    Returns:
        int64 (K(K-1)/2, M). For a single image, there are no negatives, and the shape is (K(K-1)/2, 0).

    Raises:
        ValueError: if K < 2 or M < 1, or if an argument has the wrong type.
    """
    try:
        num_views, num_images = operator.index(num_views), operator.index(num_images)
    except TypeError as error:
        message = f"num_views and num_images must be integers, got {num_views!r} and {num_images!r}"
        raise ValueError(message) from error
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator or None, got {generator!r}")
    if generator is None:
        return roll_negative_rows(num_views, num_images, device=device)
    return sample_negative_rows(num_views, num_images, generator).to(device or generator.device)


def roll_negative_rows(num_views: int, num_images: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the same negative partners as the paper's code, which rolls the rows of view j by s positions.

    The shift s is 1 for the first pair of views, grows by 1 with each pair and returns to 1 when it reaches M, so no
    row becomes its own partner. As with `torch.roll`, the partner of row m is row (m - s) mod M.

    Returns:
        int64 (Q, M). For a single image, there are no negatives, and the shape is (Q, 0). (The paper's code would
        compare the image with itself and treat the pair as a negative.)

    Raises:
        ValueError: if K < 2 or M < 1.
    """
    num_pairs = _count_view_pairs(num_views, num_images)
    if num_images == 1:
        return torch.empty(num_pairs, 0, dtype=torch.int64, device=device)
    shifts = 1 + torch.arange(num_pairs, device=device) % (num_images - 1)
    return (torch.arange(num_images, device=device) - shifts[:, None]) % num_images


def sample_negative_rows(num_views: int, num_images: int, generator: torch.Generator) -> Tensor:
    """Sample the negative partner of each row uniformly from all other rows, as in Algorithm 1 of the paper.

    Rows are sampled independently, so several rows may have the same partner.

    Returns:
        int64 (Q, M) on the generator's device. For a single image, the shape is (Q, 0).

    Raises:
        ValueError: if K < 2 or M < 1.
    """
    num_pairs = _count_view_pairs(num_views, num_images)
    if num_images == 1:
        return torch.empty(num_pairs, 0, dtype=torch.int64, device=generator.device)
    other_QM = torch.randint(num_images - 1, (num_pairs, num_images), generator=generator, device=generator.device)
    own_M = torch.arange(num_images, device=generator.device)
    return other_QM + (other_QM >= own_M)  # skip the row itself


def choose_positive_rows(labels_M: Tensor, uniform_QM: Tensor) -> Tensor:
    """Choose the positive partner of each row uniformly from the rows of its class, including the row itself.

    Args:
        labels_M: int64. The partner of a row without a label (-1) is the row itself.
        uniform_QM: random numbers in [0, 1), which determine the selection.

    Returns:
        int64 (Q, M).
    """
    return _choose_allowed_columns(_same_class_mask(labels_M), uniform_QM)


def replace_same_class_negatives(labels_M: Tensor, negative_rows_QM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Replace negative partners of the same class with rows of other classes.

    A row keeps its partner if all rows belong to its class.

    Args:
        labels_M: int64. A row without a label (-1) is treated as the only row of its class.
        negative_rows_QM: the negative partners, int64.
        uniform_QM: random numbers in [0, 1), which determine the selection.

    Returns:
        int64 (Q, M).
    """
    same_MM = _same_class_mask(labels_M)
    rows_M = torch.arange(len(labels_M), device=labels_M.device)
    replace_QM = same_MM[rows_M, negative_rows_QM] & ~same_MM.all(1)
    return torch.where(replace_QM, _choose_allowed_columns(~same_MM, uniform_QM), negative_rows_QM)


def _same_class_mask(labels_M: Tensor) -> Tensor:
    same_MM = (labels_M[:, None] == labels_M) & (labels_M >= 0)
    return same_MM | torch.eye(len(labels_M), dtype=torch.bool, device=labels_M.device)


def _choose_allowed_columns(allowed_MM: Tensor, uniform_QM: Tensor) -> Tensor:
    """Choose one of the allowed columns in each row, (Q, M), or column 0 if a row allows none."""
    columns_MM = torch.argsort(~allowed_MM, dim=1, stable=True)  # the allowed columns first, in ascending order
    count_M = allowed_MM.sum(1)
    rank_QM = torch.minimum((uniform_QM * count_M).long(), (count_M - 1).clamp(min=0))
    return columns_MM.gather(1, rank_QM.T).T


def _count_view_pairs(num_views: int, num_images: int) -> int:
    if num_views < 2:
        raise ValueError(f"relational reasoning needs at least 2 views of each image, got K = {num_views}")
    if num_images < 1:
        raise ValueError(f"a mini-batch must contain at least one image, got M = {num_images}")
    return num_views * (num_views - 1) // 2
