"""The precision of losses."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32 where it is narrower (autocast), as it is otherwise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
