"""Argument checks shared by the CPU kernel and the torch operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr.compute.device import resolve_device
from rr.errors import UserError
from rr.runtime.channel_values import parse_channel_values
from rr.views.view_parameters import ViewParameters


@cache
def check_device(device: str) -> str:
    """Return `device`, or the device that "auto" stands for.

    Raises:
        ValueError: if torch cannot use the device.
    """
    import torch

    try:
        if device == "auto" or device.startswith("cuda"):
            return resolve_device(device, "device")
        torch.empty(0, device=device)
    except UserError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # torch raises various exceptions for devices that it was not built for
        raise ValueError(f"device {device}: torch cannot use it; use auto, cpu, cuda or cuda:<number>") from error
    return device


def check_images(images: Any, dtype: Any) -> tuple[int, int]:
    """Check that `images` are square RGB images (M, S, S, 3) of type `dtype`, and return (M, S).

    Raises:
        ValueError: if the array or tensor has a different shape or type.
    """
    if not hasattr(images, "shape"):
        raise ValueError(f"images must be an array or a tensor, got {type(images).__name__}")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[1] < 1:
        raise ValueError(f"images must be square and of shape (M, S, S, 3), got shape {shape}")
    if images.dtype != dtype:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    return shape[0], shape[1]


def check_parameters(parameters: ViewParameters, num_images: int, image_size: int) -> None:
    """Raise ValueError if `parameters` are for a different number of images or a different image size."""
    if (parameters.num_images, parameters.image_size) != (num_images, image_size):
        raise ValueError(
            f"parameters are for {parameters.num_images} images of size {parameters.image_size}, but there are "
            f"{num_images} images of size {image_size}"
        )


def normalization_coefficients(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the scale and the offset, float32 (3,) each, such that (x - mean) / std = scale * x + offset.

    Raises:
        ValueError: if `mean` or `std` is invalid (see `parse_channel_values`).
    """
    means, stds = (np.array(parse_channel_values(name, values)) for name, values in (("mean", mean), ("std", std)))
    return (1 / stds).astype(np.float32), (-means / stds).astype(np.float32)
