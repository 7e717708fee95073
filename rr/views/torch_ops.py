"""Views with batched torch operations, on any device.

All views go through the same operations with the same shapes; what a view does not take part in is masked. Nothing
depends on values on the device, so nothing waits for it. Agrees with the CPU kernel to a few 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rr.views.augmentation import Augmentation
from rr.views.checks import check_fit, check_images, check_normalisation
from rr.views.draw import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters


class Steps(NamedTuple):
    """Which steps any view takes. Known on the host, so that the others are skipped without asking the device."""

    affine: bool
    jitter: bool
    hue: bool
    grayscale: bool
    erase: bool

    @classmethod
    def of(cls, augmentation: Augmentation) -> Steps:
        """The steps a policy can take: the same for every batch, as compiled code wants it."""
        a = augmentation
        return cls(a.affine > 0, a.jitter > 0, a.jitter > 0 and a.hue > 0, a.grayscale > 0, a.erase > 0)


def apply(images: Tensor, parameters: ViewParameters, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Makes the views that `parameters` describes, on the device of `images`.

    Args:
        images: uint8 (M, S, S, 3).
        parameters: of K views of M images of side S.
        mean, std: three numbers each, of channels in [0, 1].

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory, normalised, view-major.

    Raises:
        ValueError: shapes or types do not fit.
    """
    count, side = check_images(images, torch.uint8)
    check_fit(parameters, count, side)
    p = parameters
    steps = Steps(
        bool(p.affine.any()),
        bool(p.jitter.any()),
        bool(p.jitter.any() and p.factors[..., HUE].any()),
        bool(p.grayscale.any()),
        bool(p.erase.any()),
    )
    table, normalisation = upload(pack(p), images.device), upload(pack_normalisation(mean, std), images.device)
    return apply_table(images, table, normalisation, p.views, steps)


_WIDTHS = {
    "crop": 4,
    "flip": 1,
    "jitter": 1,
    "factors": 4,
    "order": 4,
    "grayscale": 1,
    "affine": 1,
    "matrix": 6,
    "erase": 4,
}


def pack(parameters: ViewParameters) -> np.ndarray:
    """All parameters as one float32 (K * M, 26) table, for one transfer. The integers are small, so nothing is lost."""
    p = parameters
    columns = [p.crop, p.flip, p.jitter, p.factors, p.order, p.grayscale, p.affine, p.inverse_affine(), p.erase]
    rows = p.views * p.count
    return np.concatenate([column.reshape(rows, -1).astype(np.float32) for column in columns], axis=1)


def pack_normalisation(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """float32 (2, 3): what a channel is multiplied by, and what is added then."""
    return np.stack(check_normalisation(mean, std))


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """Copies to the device without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        # Only a copy from pinned memory leaves the host free.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def apply_table(images: Tensor, table: Tensor, normalisation: Tensor, views: int, steps: Steps) -> Tensor:
    """Makes the views of a packed table: nothing but device work, in shapes that depend on shapes alone.

    Args:
        images: uint8 (M, S, S, 3).
        table: float32 (K * M, 26) as made by `pack`, on the same device.
        normalisation: float32 (2, 3) as made by `pack_normalisation`, on the same device.
        views: K.
        steps: the steps that views take; a step left out must be taken by none.

    Returns:
        float32 (K * M, 3, S, S) in channels_last memory.
    """
    crop, flip, jitter, factors, order, grayscale, affine, matrix, erase = table.split(list(_WIDTHS.values()), dim=1)
    x = _crop(images, crop, flip, views)
    if steps.affine:
        x = torch.where(affine[:, :, None] > 0, _warp(x, matrix), x)
    if steps.jitter:
        changed = _jitter(x, factors, order, skip_hue=not steps.hue)
        x = torch.where(jitter[:, :, None] > 0, changed, x)
    if steps.grayscale:
        x = torch.where(grayscale[:, :, None] > 0, _luma(x), x)
    x = x * normalisation[0, :, None, None, None] + normalisation[1, :, None, None, None]
    if steps.erase:
        x = torch.where(_inside(erase, images.shape[1]), 0.0, x)
    return x.permute(1, 0, 2, 3).contiguous(memory_format=torch.channels_last)


def _crop(images: Tensor, crop: Tensor, flip: Tensor, views: int) -> Tensor:
    """float32 (3, N, S, S) in [0, 1]: resized, padded or whole crops, flipped."""
    count, side = images.shape[:2]
    top, left, height, width = crop.split(1, dim=1)
    across = torch.arange(side, device=images.device, dtype=torch.float32).expand(len(crop), side)
    y0, y1, wy0, wy1 = _taps(top, height, across, side)
    x0, x1, wx0, wx1 = _taps(left, width, torch.where(flip > 0, side - 1 - across, across), side)
    wx0, wx1 = wx0[:, None], wx1[:, None]
    first = torch.arange(count, device=images.device).repeat(views)[:, None] * side
    source = images.permute(3, 0, 1, 2).reshape(3, -1)

    def pixels(y: Tensor, x: Tensor) -> Tensor:
        return source[:, ((first + y) * side)[:, :, None] + x[:, None, :]].float() / 255

    upper = wx0 * pixels(y0, x0) + wx1 * pixels(y0, x1)
    lower = wx0 * pixels(y1, x0) + wx1 * pixels(y1, x1)
    return wy0[:, :, None] * upper + wy1[:, :, None] * lower


def _taps(start: Tensor, length: Tensor, at: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels (int64) and weights of each output position `at`, (N, S), as in `kernel.taps`."""
    # In float64, then rounded: as the fused multiply-add of torch's own resize.
    at = ((length / side).double() * (at + 0.5) - 0.5).float().clamp_min(0)
    low = torch.minimum(at.floor(), length - 1)
    high = torch.minimum(low + 1, length - 1)
    share = at - low
    low, high = start + low, start + high
    inside = ((low >= 0) & (low < side)).float()
    first, second = low.clamp(0, side - 1).long(), high.clamp(0, side - 1).long()
    return first, second, (1 - share) * inside, share * inside


def _warp(x: Tensor, matrix: Tensor) -> Tensor:
    """The affine map of (3, N, S, S), as in `kernel.warp`."""
    number, side = x.shape[1], x.shape[2]
    centred = torch.arange(side, device=x.device, dtype=torch.float32) + 0.5 - side / 2
    u, v = centred, centred[:, None]
    a, b, c, d, e, f = (matrix[:, i, None, None] / (side / 2) for i in range(6))
    across = ((a * u + b * v + c + 1) * side - 1) / 2
    down = ((d * u + e * v + f + 1) * side - 1) / 2
    left, top = across.floor(), down.floor()
    first = (torch.arange(number, device=x.device) * (side * side))[:, None, None]
    flat = x.reshape(3, -1)
    total, mask = torch.zeros_like(x), torch.zeros_like(across)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            weight = (1 - (across - column).abs()) * (1 - (down - row).abs())
            weight = weight * ((row >= 0) & (row < side) & (column >= 0) & (column < side))
            at = first + row.clamp(0, side - 1).long() * side + column.clamp(0, side - 1).long()
            total += weight * flat[:, at]
            mask += weight
    return total * mask


def _luma(x: Tensor) -> Tensor:
    return 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def _jitter(x: Tensor, factors: Tensor, order: Tensor, *, skip_hue: bool) -> Tensor:
    """Colour jitter of (3, N, S, S) in the order of each view.

    Brightness, contrast and saturation all mix the image with another: black, the mean luma, or the luma. So one
    mixture serves all three; it is the identity (factor 1) for views whose turn it is to change hue.
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
    """The HSV round trip, as in `kernel.adjust_hue`."""
    r, g, b = x
    low, high = torch.minimum(torch.minimum(r, g), b), torch.maximum(torch.maximum(r, g), b)
    d = high - low
    safe = torch.where(d > 0, d, 1.0)
    h = torch.where(high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    h = torch.remainder(h + 6 * shift, 6)
    ramps = torch.stack([(h - 3).abs() - 1, 2 - (h - 2).abs(), 2 - (h - 4).abs()])
    return low + d * ramps.clamp(0, 1)


def _inside(box: Tensor, side: int) -> Tensor:
    """bool (N, S, S): which pixels lie in the boxes (N, 4)."""
    top, left, height, width = box.split(1, dim=1)
    at = torch.arange(side, device=box.device)
    rows = (at >= top) & (at < top + height)
    columns = (at >= left) & (at < left + width)
    return rows[:, :, None] & columns[:, None, :]
