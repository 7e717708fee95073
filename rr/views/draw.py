"""The random parameters of views, separate from the pixels.

They are a pure function of (seed, epoch, image index, view number): a counter-based generator has no state to advance,
so batch composition, order, number of workers and number of views cannot change a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rr.views.augmentation import Augmentation

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3
"""The codes in `ViewParameters.order`, and the columns of `ViewParameters.factors`."""


@dataclass(frozen=True)
class ViewParameters:
    """Everything random about K views of M square images of one side. All arrays lead with (K, M).

    Attributes:
        side: side of the images, in pixels.
        crop: int32 (K, M, 4), box (top, left, height, width). A padded crop may start at negative positions; what lies
            outside the image is 0.
        flip: bool (K, M).
        jitter: bool (K, M), whether the colour jitter applies.
        factors: float32 (K, M, 4), brightness, contrast, saturation factors and hue shift.
        order: int8 (K, M, 4), the order of the four adjustments.
        grayscale: bool (K, M).
        affine: bool (K, M), whether the affine map applies.
        motion: float32 (K, M, 5), angle in degrees, horizontal and vertical shift in pixels, zoom, shear in degrees.
        erase: int32 (K, M, 4), box (top, left, height, width) set to 0 after normalisation; height 0 for none.
    """

    side: int
    crop: NDArray[np.int32]
    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    factors: NDArray[np.float32]
    order: NDArray[np.int8]
    grayscale: NDArray[np.bool_]
    affine: NDArray[np.bool_]
    motion: NDArray[np.float32]
    erase: NDArray[np.int32]

    @property
    def views(self) -> int:
        """K, the number of views of each image."""
        return self.flip.shape[0]

    @property
    def count(self) -> int:
        """M, the number of images."""
        return self.flip.shape[1]

    def inverse_affine(self) -> NDArray[np.float32]:
        """float32 (K, M, 6): (a, b, c, d, e, f) of the affine maps, from output to input positions.

        Positions are in pixels from the image centre: x_in = a x + b y + c and y_in = d x + e y + f, as
        `torchvision.transforms.functional.affine` builds them.
        """
        angle, across, down, zoom, shear = np.moveaxis(self.motion.astype(np.float64), -1, 0)
        cos, sin, tan = np.cos(np.radians(angle)), np.sin(np.radians(angle)), np.tan(np.radians(shear))
        a, b = (cos - sin * tan) / zoom, (cos * tan + sin) / zoom
        d, e = -sin / zoom, cos / zoom
        rows = [a, b, -(a * across + b * down), d, e, -(d * across + e * down)]
        return np.stack(rows, axis=-1).astype(np.float32)


def draw(
    augmentation: Augmentation, seed: int, epoch: int, index: NDArray[np.int64], views: int, side: int
) -> ViewParameters:
    """Draws `views` views of each image.

    The distributions are those of torchvision's RandomResizedCrop (its ten tries and central fallback included),
    RandomCrop with padding, RandomHorizontalFlip, ColorJitter, RandomGrayscale, RandomAffine and RandomErasing.

    Args:
        augmentation: the policy.
        seed: in [0, 2**64).
        epoch: in [0, 2**32).
        index: int64 (M,), the index of each image within its data set, not negative.
        views: K, in [1, 2**24).
        side: side of the images in pixels, at least 1.

    Returns:
        The parameters. View k of an image is the same for every K, M and position in the batch.

    Raises:
        ValueError: an argument is out of its range, or `index` is not a vector of integers.
    """
    indices = np.asarray(index)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"index must be a vector of integers, got {indices.dtype} of shape {indices.shape}")
    if indices.size and indices.min() < 0:
        raise ValueError(f"index must not be negative, got {indices.min()}")
    _check_integer("seed", seed, 0, 2**64)
    _check_integer("epoch", epoch, 0, 2**32)
    _check_integer("views", views, 1, 2**24)
    _check_integer("side", side, 1, 2**15)

    from rr.views import draw_kernel

    shape = (int(views), len(indices))
    parameters = ViewParameters(
        side=int(side),
        crop=np.empty((*shape, 4), np.int32),
        flip=np.empty(shape, np.bool_),
        jitter=np.empty(shape, np.bool_),
        factors=np.empty((*shape, 4), np.float32),
        order=np.empty((*shape, 4), np.int8),
        grayscale=np.empty(shape, np.bool_),
        affine=np.empty(shape, np.bool_),
        motion=np.empty((*shape, 5), np.float32),
        erase=np.empty((*shape, 4), np.int32),
    )
    a = augmentation
    draw_kernel.fill(
        np.uint64(seed),
        np.uint64(epoch),
        indices.astype(np.int64),
        int(side),
        ("none", "resized", "padded").index(a.crop),
        tuple(map(float, a.scale)),
        tuple(map(float, a.ratio)),
        round(a.padding * side),
        (float(a.flip), float(a.jitter), float(a.grayscale), float(a.affine), float(a.erase)),
        (float(a.brightness), float(a.contrast), float(a.saturation), float(a.hue)),
        (float(a.degrees), float(a.translate * side), float(a.zoom[0]), float(a.zoom[1]), float(a.shear)),
        round(math.sqrt(side * side * a.erase_area)),
        parameters.crop,
        parameters.flip,
        parameters.jitter,
        parameters.factors,
        parameters.order,
        parameters.grayscale,
        parameters.affine,
        parameters.motion,
        parameters.erase,
    )
    return parameters


def _check_integer(name: str, value: int, low: int, stop: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= int(value) < stop:
        raise ValueError(f"{name} must be an integer in [{low}, {stop}), got {value!r}")
