"""Which views of a mini-batch look most alike: the similarities that two-view methods share, and their accuracy.

M images give two embeddings each, ``first_MD`` and ``second_MD``; together they are V = 2M rows, all first views, then
all second ones, so that the other view of row v is row ``(v + M) mod V``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rr.compute.precision import at_least_float32


def check_views(first_MD: Tensor, second_MD: Tensor, smallest: int = 1) -> None:
    """Raise ValueError unless both are of one shape (M, D), M at least `smallest`."""
    if first_MD.ndim != 2 or first_MD.shape != second_MD.shape:
        raise ValueError(f"two views need one shape (M, D), got {tuple(first_MD.shape)} and {tuple(second_MD.shape)}")
    if len(first_MD) < smallest:
        raise ValueError(f"the loss needs at least {smallest} images, got M = {len(first_MD)}")


def cosines_of_others(first_MD: Tensor, second_MD: Tensor) -> Tensor:
    """Cosine of every row with every other one, (2M, 2M); -inf on the diagonal, where a row meets itself.

    float32, or float64 for such input, also under autocast: bfloat16 would leave three digits of a cosine.
    A row of zeros has cosine 0 with all. Raises ValueError for unfit shapes.
    """
    check_views(first_MD, second_MD)
    rows_VD = torch.cat((first_MD, second_MD))
    with torch.autocast(rows_VD.device.type, enabled=False):
        unit_VD = F.normalize(at_least_float32(rows_VD), dim=1)
        itself_VV = torch.eye(len(unit_VD), dtype=torch.bool, device=unit_VD.device)
        return (unit_VD @ unit_VD.T).masked_fill(itself_VV, -torch.inf)


@torch.no_grad()
def count_matches(first_MD: Tensor, second_MD: Tensor) -> tuple[Tensor, int]:
    """How many of the 2M rows have the other view of their image as the most similar row; and 2M.

    The count is an int64 0-d tensor on the device of the input, without gradient; nothing waits for it. Among equal
    similarities the lowest row counts. Raises ValueError for unfit shapes.
    """
    nearest_V = cosines_of_others(first_MD, second_MD).argmax(1)
    V = len(nearest_V)
    return (nearest_V == torch.arange(V, device=nearest_V.device).roll(V // 2)).sum(), V
