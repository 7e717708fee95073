"""The minimum precision of losses."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert `tensor` to float32 if its dtype is narrower (as under autocast); return it unchanged otherwise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
