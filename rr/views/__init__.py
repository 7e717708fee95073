"""Make normalized, randomly augmented views of uint8 images.

`view_parameters` samples the random parameters of views; `cpu_views` and `torch_views` apply them to images. Importing
this package loads neither torch nor numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rr.compute.buffers import BufferPool
from rr.views.argument_checks import check_device, check_images, normalization_coefficients
from rr.views.augmentation import PAPER_AUGMENTATION, Augmentation
from rr.views.view_parameters import ViewParameters, sample_precropped_view_parameters, sample_view_parameters

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = [
    "PAPER_AUGMENTATION",
    "Augmentation",
    "ViewParameters",
    "apply_view_parameters",
    "make_views",
    "normalize",
    "sample_precropped_view_parameters",
    "sample_view_parameters",
]

_buffers = BufferPool(max_buffers=3)  # one being filled, one being read, and a spare


def make_views(
    images: NDArray[np.uint8] | torch.Tensor,
    image_indices: NDArray[np.int64] | torch.Tensor,
    *,
    augmentation: Augmentation | Sequence[Augmentation],
    seed: int,
    epoch: int,
    num_views: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Return K random views of each of M images.

    A view depends only on the pixels of the image and on (seed, epoch, image index, view number). Results on different
    devices differ by rounding errors (a few 1e-6 before the division by std). On the CPU, the memory of earlier views
    is reused as soon as nothing refers to them.

    Args:
        images: uint8 (M, S, S, 3); a tensor may already be on the device.
        image_indices: int64 (M,), the index of each image in its dataset, in host memory. This is not the position in
            the mini-batch: in the same epoch, images with the same index get the same crops and colors.
        augmentation: the augmentation policy, or a sequence of policies that the views use in turn.
        seed: seed for the random parameters, in [0, 2**64).
        epoch: number of the epoch, in [0, 2**32).
        num_views: number of views per image, K, at least 1.
        mean: mean of each of the three channels, for pixel values in [0, 1].
        std: standard deviation of each channel, for pixel values in [0, 1].
        device: device on which the views are computed and returned; "auto" is a GPU if there is one. The default is the
            device of `images`, which is the CPU for an array.

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory format. The first M rows are view 1 of all images.

    Raises:
        ValueError: if an argument has the wrong type or shape, or is out of range.
    """
    import torch

    num_images, image_size = check_images(images, torch.uint8 if isinstance(images, torch.Tensor) else np.uint8)
    indices = np.asarray(image_indices)
    if indices.shape != (num_images,):
        raise ValueError(f"image_indices must have shape ({num_images},), one entry per image, got {indices.shape}")
    if device is None:
        device = images.device if isinstance(images, torch.Tensor) else "cpu"
    device = check_device(str(device))
    parameters = sample_view_parameters(augmentation, seed, epoch, indices, num_views, image_size)
    return apply_view_parameters(images, parameters, mean, std, device)


def apply_view_parameters(
    images: NDArray[np.uint8] | torch.Tensor,
    parameters: ViewParameters,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device,
) -> torch.Tensor:
    """Return the views of `images` described by `parameters`; see `make_views` for the other arguments."""
    import torch

    if torch.device(device).type == "cpu":
        from rr.views import cpu_views

        size = parameters.image_size
        out = _buffers.empty((parameters.num_views, parameters.num_images, size, size, 3))
        views = cpu_views.augment(np.asarray(images), parameters, mean, std, out)
        return torch.from_numpy(views).view(-1, size, size, 3).permute(0, 3, 1, 2)

    from rr.views import torch_views

    return torch_views.augment(torch.as_tensor(images).to(device, non_blocking=True), parameters, mean, std)


def normalize(
    images: NDArray[np.uint8] | torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device,
) -> torch.Tensor:
    """Scale images to [0, 1] and normalize their channels to (x - mean) / std, without augmentation.

    Args:
        images: uint8 (M, S, S, 3).
        mean: mean of each of the three channels, for pixel values in [0, 1].
        std: standard deviation of each channel, for pixel values in [0, 1].
        device: device on which the result is computed and returned.

    Returns:
        float32 (M, 3, S, S) in channels_last memory format.

    Raises:
        ValueError: if an argument has the wrong type or shape, or is out of range.
    """
    import torch

    check_images(images, torch.uint8 if isinstance(images, torch.Tensor) else np.uint8)
    scale, offset = normalization_coefficients(mean, std)
    pixels = torch.as_tensor(images).to(device, non_blocking=True).float().div_(255)
    pixels.mul_(torch.from_numpy(scale).to(device)).add_(torch.from_numpy(offset).to(device))
    return pixels.permute(0, 3, 1, 2)
