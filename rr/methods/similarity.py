"""Cosine similarities between two views of a mini-batch, and the matching accuracy that two-view methods report.

Each of M images has two embeddings, in `first_MD` and `second_MD`. Together they form V = 2M rows: all first views,
then all second views. Rows v and (v + M) mod V are therefore views of the same image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rr.compute.minimum_precision import at_least_float32


def check_view_shapes(first_MD: Tensor, second_MD: Tensor, min_images: int = 1) -> None:
    """Raise ValueError unless both tensors have the same shape (M, D) with M at least `min_images`."""
    if first_MD.ndim != 2 or first_MD.shape != second_MD.shape:
        raise ValueError(
            f"both views must have the same shape (M, D), got {tuple(first_MD.shape)} and {tuple(second_MD.shape)}"
        )
    if len(first_MD) < min_images:
        raise ValueError(f"the loss needs at least {min_images} images, got M = {len(first_MD)}")


def cosines_of_all_view_pairs(first_MD: Tensor, second_MD: Tensor) -> Tensor:
    """Return the cosine similarity of every view to every other view, (2M, 2M), with -inf on the diagonal.

    The cosine similarity to a row of zeros is 0. The result is float32 (float64 for float64 input) even under autocast,
    because bfloat16 would keep only three digits of a cosine.

    Raises:
        ValueError: if the shapes differ or are not (M, D).
    """
    check_view_shapes(first_MD, second_MD)
    rows_VD = torch.cat((first_MD, second_MD))
    with torch.autocast(rows_VD.device.type, enabled=False):
        unit_VD = F.normalize(at_least_float32(rows_VD), dim=1)
        diagonal_VV = torch.eye(len(unit_VD), dtype=torch.bool, device=unit_VD.device)
        return (unit_VD @ unit_VD.T).masked_fill(diagonal_VV, -torch.inf)


@torch.no_grad()
def count_nearest_matches(first_MD: Tensor, second_MD: Tensor) -> tuple[Tensor, int]:
    """Count the views whose most similar view shows the same image, and return this count and the number of views.

    If several views are equally similar, the first of them counts as the most similar.

    Returns:
        The count, int64 0-d on the device of the input, and the number of views, 2M.

    Raises:
        ValueError: if the shapes differ or are not (M, D).
    """
    nearest_V = cosines_of_all_view_pairs(first_MD, second_MD).argmax(1)
    V = len(nearest_V)
    return (nearest_V == torch.arange(V, device=nearest_V.device).roll(V // 2)).sum(), V
