"""Compute views with batched torch operations, on any device.

All views pass through the same operations with the same shapes, and masks select the views that an operation changes.
The choice of operations does not depend on values on the device, so the host never waits for the device. The results
agree with those of the CPU kernel to within a few 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.views.argument_checks import check_images, check_parameters, normalization_coefficients
from rr.views.augmentation import Augmentation, blur_radius
from rr.views.view_parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters


class EnabledOps(NamedTuple):
    """The operations that at least one view may need; the host skips the others."""

    affine: bool
    jitter: bool
    hue: bool
    grayscale: bool
    blur: bool
    solarize: bool
    erase: bool

    @classmethod
    def from_policies(cls, policies: Sequence[Augmentation]) -> EnabledOps:
        """Return the operations that policies may use. They are the same for every batch, as compiled code requires."""
        return cls(
            affine=any(a.affine > 0 for a in policies),
            jitter=any(a.jitter > 0 for a in policies),
            hue=any(a.jitter > 0 and a.hue > 0 for a in policies),
            grayscale=any(a.grayscale > 0 for a in policies),
            blur=any(a.blur > 0 for a in policies),
            solarize=any(a.solarize > 0 for a in policies),
            erase=any(a.erase > 0 for a in policies),
        )


def augment(images: Tensor, parameters: ViewParameters, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return the views of `images` described by `parameters`, on the device of `images`.

    Args:
        images: uint8 (M, S, S, 3).
        parameters: parameters of K views of M images of size S.
        mean: mean of each of the three channels, for pixel values in [0, 1].
        std: standard deviation of each channel, for pixel values in [0, 1].

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory format, normalized, view-major.

    Raises:
        ValueError: if an argument has the wrong type or shape, or is out of range.
    """
    check_parameters(parameters, *check_images(images, torch.uint8))
    p = parameters
    enabled = EnabledOps(
        bool(p.affine.any()),
        bool(p.jitter.any()),
        bool(p.jitter.any() and p.jitter_factors[..., HUE].any()),
        bool(p.grayscale.any()),
        bool(p.blur_sigma.any()),
        bool(p.solarize.any()),
        bool(p.erase.any()),
    )
    packed_parameters = to_device(pack_parameters(p), images.device)
    normalization = to_device(pack_normalization(mean, std), images.device)
    return augment_packed(images, packed_parameters, normalization, p.num_views, enabled)


def pack_parameters(parameters: ViewParameters) -> np.ndarray:
    """Return all parameters as one float32 (K * M, 28) array, so that one transfer to the device suffices.

    The integers are small enough to be exact in float32.
    """
    p = parameters
    columns = [
        p.crop, p.flip, p.jitter, p.jitter_factors, p.jitter_order, p.grayscale, p.blur_sigma, p.solarize, p.affine,
        p.inverse_affine_matrices(), p.erase,
    ]  # fmt: skip
    rows = p.num_views * p.num_images
    flat = [column.reshape(rows, math.prod(column.shape[2:])) for column in columns]
    return np.concatenate(flat, axis=1, dtype=np.float32)


def pack_normalization(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the scale and the offset of the normalization as one float32 (2, 3) array."""
    return np.stack(normalization_coefficients(mean, std))


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device without waiting for the copy to finish."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        # Copies are asynchronous only from pinned memory.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def augment_packed(
    images: Tensor, packed_parameters: Tensor, normalization: Tensor, num_views: int, enabled: EnabledOps
) -> Tensor:
    """Return the views described by packed parameters, using only operations on the device.

    All shapes depend only on the shapes of the arguments, so the function can be compiled.

    Args:
        images: uint8 (M, S, S, 3).
        packed_parameters: float32 (K * M, 28) from `pack_parameters`, on the device of `images`.
        normalization: float32 (2, 3) from `pack_normalization`, on the device of `images`.
        num_views: number of views per image, K.
        enabled: the operations to run; it must include every operation that a view needs.

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory format, normalized, view-major.
    """
    # In the order of `pack_parameters`.
    crop, flip, jitter, factors, order, grayscale, sigma, solarize, affine, matrix, erase = packed_parameters.split(
        [4, 1, 1, 4, 4, 1, 1, 1, 1, 6, 4], dim=1
    )
    x = _crop_and_flip(images, crop, flip, num_views)
    if enabled.affine:
        x = torch.where(affine[:, :, None] > 0, _warp(x, matrix), x)
    if enabled.jitter:
        jittered = _color_jitter(x, factors, order, skip_hue=not enabled.hue)
        x = torch.where(jitter[:, :, None] > 0, jittered, x)
    if enabled.grayscale:
        x = torch.where(grayscale[:, :, None] > 0, _luma(x), x)
    if enabled.blur:
        x = _blur(x, sigma, blur_radius(images.shape[1]))
    if enabled.solarize:
        x = torch.where((solarize[:, :, None] > 0) & (x >= 0.5), 1 - x, x)
    x = x * normalization[0, :, None, None, None] + normalization[1, :, None, None, None]
    if enabled.erase:
        x = torch.where(_box_mask(erase, images.shape[1]), 0.0, x)
    return x.permute(1, 0, 2, 3).contiguous(memory_format=torch.channels_last)


def _crop_and_flip(images: Tensor, crop: Tensor, flip: Tensor, num_views: int) -> Tensor:
    """Return the crop of each view, flipped where `flip` is 1 and resized to S × S: float32 (3, N, S, S) in [0, 1]."""
    num_images, size = images.shape[:2]
    top, left, height, width = crop.split(1, dim=1)
    position = torch.arange(size, device=images.device, dtype=torch.float32).expand(len(crop), size)
    y0, y1, wy0, wy1 = _bilinear_taps(top, height, position, size)
    x0, x1, wx0, wx1 = _bilinear_taps(left, width, torch.where(flip > 0, size - 1 - position, position), size)
    wx0, wx1 = wx0[:, None], wx1[:, None]
    first_row = torch.arange(num_images, device=images.device).repeat(num_views)[:, None] * size
    flat = images.permute(3, 0, 1, 2).reshape(3, -1)

    def pixels(y: Tensor, x: Tensor) -> Tensor:
        return flat[:, ((first_row + y) * size)[:, :, None] + x[:, None, :]].float() / 255

    upper = wx0 * pixels(y0, x0) + wx1 * pixels(y0, x1)
    lower = wx0 * pixels(y1, x0) + wx1 * pixels(y1, x1)
    return wy0[:, :, None] * upper + wy1[:, :, None] * lower


def _bilinear_taps(start: Tensor, length: Tensor, position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two source pixels (int64) and their weights, (N, S) each, like `augment_kernel.bilinear_taps`."""
    # Compute in float64 and then round, which is equivalent to the fused multiply-add of torch's own resize.
    source = ((length / size).double() * (position + 0.5) - 0.5).float().clamp_min(0)
    low = torch.minimum(source.floor(), length - 1)
    high = torch.minimum(low + 1, length - 1)
    weight = source - low
    low, high = start + low, start + high
    inside = ((low >= 0) & (low < size)).float()
    low_pixel, high_pixel = low.clamp(0, size - 1).long(), high.clamp(0, size - 1).long()
    return low_pixel, high_pixel, (1 - weight) * inside, weight * inside


def _warp(x_3NSS: Tensor, inverse_matrix_N6: Tensor) -> Tensor:
    """Warp images with the affine maps whose inverses are `inverse_matrix_N6`, like `augment_kernel.warp`."""
    batch_size, size = x_3NSS.shape[1], x_3NSS.shape[2]
    centered = torch.arange(size, device=x_3NSS.device, dtype=torch.float32) + 0.5 - size / 2
    u, v = centered, centered[:, None]
    a, b, c, d, e, f = (inverse_matrix_N6[:, i, None, None] / (size / 2) for i in range(6))
    source_x = ((a * u + b * v + c + 1) * size - 1) / 2
    source_y = ((d * u + e * v + f + 1) * size - 1) / 2
    left, top = source_x.floor(), source_y.floor()
    first_pixel = (torch.arange(batch_size, device=x_3NSS.device) * (size * size))[:, None, None]
    flat = x_3NSS.reshape(3, -1)
    total, mask = torch.zeros_like(x_3NSS), torch.zeros_like(source_x)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            weight = (1 - (source_x - column).abs()) * (1 - (source_y - row).abs())
            weight = weight * ((row >= 0) & (row < size) & (column >= 0) & (column < size))
            pixel = first_pixel + row.clamp(0, size - 1).long() * size + column.clamp(0, size - 1).long()
            total += weight * flat[:, pixel]
            mask += weight
    return total * mask


def _luma(x: Tensor) -> Tensor:
    return 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def _color_jitter(x: Tensor, factors: Tensor, order: Tensor, *, skip_hue: bool) -> Tensor:
    """Apply the color jitter to (3, N, S, S), in the order of each view.

    Brightness, contrast and saturation all blend the image with a second image: black, its mean luma, or its luma.
    Therefore, one blend computes all three. Its factor is 1 (no change) for views that adjust the hue in this step.
    """
    hue = factors[:, HUE, None, None]
    for step in range(4):
        code = order[:, step, None, None]
        factor = torch.ones_like(code)
        for kind in (BRIGHTNESS, CONTRAST, SATURATION):
            factor = torch.where(code == kind, factors[:, kind, None, None], factor)
        gray = _luma(x)
        other = torch.where(code == SATURATION, gray, 0.0)
        other = torch.where(code == CONTRAST, gray.mean((1, 2), keepdim=True), other)
        x = (factor * x + (1 - factor) * other).clamp(0, 1)
        if not skip_hue:
            x = torch.where(code == HUE, _adjust_hue(x, hue), x)
    return x


def _adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue by converting to HSV and back, like `augment_kernel.adjust_hue`."""
    r, g, b = x
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    d = high - low
    divisor = torch.where(d > 0, d, 1.0)
    h = torch.where(high == r, (g - b) / divisor, torch.where(high == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor))
    h = torch.remainder(h + 6 * shift, 6)
    ramps = torch.stack([(h - 3).abs() - 1, 2 - (h - 2).abs(), 2 - (h - 4).abs()])
    return low + d * ramps.clamp(0, 1)


def _blur(x_3NSS: Tensor, sigma_N1: Tensor, radius: int) -> Tensor:
    """Blur images like `augment_kernel.blur`. A standard deviation of 0 leaves an image unchanged."""
    offset = torch.arange(-radius, radius + 1, device=x_3NSS.device)
    weights_NT = (-0.5 * (offset / sigma_N1.clamp_min(1e-3)) ** 2).exp()
    weights_NT = weights_NT / weights_NT.sum(1, keepdim=True)
    size = x_3NSS.shape[2]
    for axis in (2, 3):
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(x_3NSS, padding, mode="reflect")
        taps = range(2 * radius + 1)
        x_3NSS = sum(weights_NT[:, t, None, None] * padded.narrow(axis, t, size) for t in taps)  # type: ignore[assignment]
    return x_3NSS


def _box_mask(box: Tensor, size: int) -> Tensor:
    """Return the mask of the pixels inside the boxes (N, 4), bool (N, S, S)."""
    top, left, height, width = box.split(1, dim=1)
    position = torch.arange(size, device=box.device)
    rows = (position >= top) & (position < top + height)
    columns = (position >= left) & (position < left + width)
    return rows[:, :, None] & columns[:, None, :]
