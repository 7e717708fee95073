"""From uint8 images to normalised views: random parameters (`draw`) and their application (`cpu`, `batched`).

Importing this package loads neither torch nor numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rr.views.augmentation import Augmentation
from rr.views.checks import check_images, check_normalisation
from rr.views.draw import ViewParameters, draw

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Augmentation", "ViewParameters", "draw", "make_views", "normalise"]


def make_views(
    images: NDArray[np.uint8] | torch.Tensor,
    index: NDArray[np.int64] | torch.Tensor,
    *,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    views: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device,
) -> torch.Tensor:
    """Draws and makes K views of M images.

    The views depend on the pixels and on (seed, epoch, index, view number) only; on another device they differ by
    rounding (a few 1e-6 before division by std). On the CPU the memory of views that nothing refers to any more is
    used for later ones.

    Args:
        images: uint8 (M, S, S, 3); a tensor may already be on the device.
        index: int64 (M,), the index of each image within its data set, in host memory.
        augmentation: the view policy.
        seed, epoch: see `draw`.
        views: K, at least 1.
        mean, std: three numbers each, of channels in [0, 1].
        device: where the views are made and returned.

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory, view-major: the first M rows are view 1 of all images.

    Raises:
        ValueError: an argument has a wrong type, shape or range.
    """
    import torch

    count, side = check_images(images, torch.uint8 if isinstance(images, torch.Tensor) else np.uint8)
    index = np.asarray(index)
    if len(index) != count:
        raise ValueError(f"index must name each image once, got {len(index)} for {count} images")
    parameters = draw(augmentation, seed, epoch, index, views, side)
    if torch.device(device).type == "cpu":
        from rr.views import buffers, cpu

        out = buffers.take((views, count, side, side, 3))
        made = cpu.apply(np.asarray(images), parameters, mean, std, out)
        return torch.from_numpy(made).view(-1, side, side, 3).permute(0, 3, 1, 2)

    from rr.views import torch_ops

    return torch_ops.apply(torch.as_tensor(images).to(device, non_blocking=True), parameters, mean, std)


def normalise(
    images: NDArray[np.uint8] | torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device,
) -> torch.Tensor:
    """Images as they are, for evaluation: scaled to [0, 1], then (x - mean) / std.

    Args:
        images: uint8 (M, S, S, 3).
        mean, std: three numbers each, of channels in [0, 1].
        device: where to compute and return.

    Returns:
        float32 (M, 3, S, S) in channels_last memory.

    Raises:
        ValueError: an argument has a wrong type, shape or range.
    """
    import torch

    check_images(images, torch.uint8 if isinstance(images, torch.Tensor) else np.uint8)
    gain, offset = check_normalisation(mean, std)
    pixels = torch.as_tensor(images).to(device, non_blocking=True).float().div_(255)
    pixels.mul_(torch.from_numpy(gain).to(device)).add_(torch.from_numpy(offset).to(device))
    return pixels.permute(0, 3, 1, 2)
