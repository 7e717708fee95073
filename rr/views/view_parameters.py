"""Sample the random parameters of views, independently of the pixels.

The parameters are a pure function of (seed, epoch, image index, view number), because the random generator is
counter-based and has no state. Therefore, a view does not depend on the other images of the batch, their order, the
number of workers or the number of views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from rr.views.augmentation import Augmentation, as_policies

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3
"""The codes in `ViewParameters.jitter_order`, and the columns of `ViewParameters.jitter_factors`."""


@dataclass(frozen=True)
class ViewParameters:
    """The random parameters for K views of each of M square images of the same size.

    Attributes:
        image_size: side of the images in pixels.
        crop: int32 (K, M, 4), the box (top, left, height, width). A padded crop may start at negative positions; pixels
            outside the image are 0.
        flip: bool (K, M), whether the view is flipped horizontally.
        jitter: bool (K, M), whether the color jitter applies.
        jitter_factors: float32 (K, M, 4), the factors of brightness, contrast and saturation, and the hue shift.
        jitter_order: int8 (K, M, 4), the order of these four adjustments.
        grayscale: bool (K, M), whether the view is converted to grayscale.
        blur_sigma: float32 (K, M), the standard deviation of the blur in pixels. 0 means that the view is not blurred.
        solarize: bool (K, M), whether the view is solarized.
        affine: bool (K, M), whether the affine map applies.
        affine_params: float32 (K, M, 5), the angle in degrees, the horizontal and vertical translation in pixels, the
            zoom factor and the shear in degrees.
        erase: int32 (K, M, 4), the box (top, left, height, width) that is set to 0 after normalization. A height of 0
            means that nothing is erased.
    """

    image_size: int
    crop: NDArray[np.int32]
    flip: NDArray[np.bool_]
    jitter: NDArray[np.bool_]
    jitter_factors: NDArray[np.float32]
    jitter_order: NDArray[np.int8]
    grayscale: NDArray[np.bool_]
    blur_sigma: NDArray[np.float32]
    solarize: NDArray[np.bool_]
    affine: NDArray[np.bool_]
    affine_params: NDArray[np.float32]
    erase: NDArray[np.int32]

    @property
    def num_views(self) -> int:
        """K, the number of views of each image."""
        return self.flip.shape[0]

    @property
    def num_images(self) -> int:
        """M, the number of images."""
        return self.flip.shape[1]

    def as_single_views(self) -> ViewParameters:
        """Return the same parameters as one view each of K * M images, in view-major order."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "image_size"}
        merged = {name: array.reshape(1, -1, *array.shape[2:]) for name, array in arrays.items()}
        return ViewParameters(image_size=self.image_size, **merged)

    def inverse_affine_matrices(self) -> NDArray[np.float32]:
        """Return the affine maps from output to input positions as (a, b, c, d, e, f), float32 (K, M, 6).

        Positions are in pixels from the image center: x_in = a x + b y + c and y_in = d x + e y + f, as in
        `torchvision.transforms.functional.affine`.
        """
        angle, shift_x, shift_y, zoom, shear = np.moveaxis(self.affine_params.astype(np.float64), -1, 0)
        cos, sin, tan = np.cos(np.radians(angle)), np.sin(np.radians(angle)), np.tan(np.radians(shear))
        a, b = (cos - sin * tan) / zoom, (cos * tan + sin) / zoom
        d, e = -sin / zoom, cos / zoom
        matrix = [a, b, -(a * shift_x + b * shift_y), d, e, -(d * shift_x + e * shift_y)]
        return np.stack(matrix, axis=-1).astype(np.float32)


def sample_view_parameters(
    augmentation: Augmentation | Sequence[Augmentation],
    seed: int,
    epoch: int,
    image_indices: NDArray[np.int64],
    num_views: int,
    image_size: int,
) -> ViewParameters:
    """Sample the parameters of `num_views` random views of each image.

    The distributions are the same as in torchvision's RandomResizedCrop (including its ten attempts and its central
    fallback), RandomCrop with padding, RandomHorizontalFlip, ColorJitter, RandomGrayscale, GaussianBlur,
    RandomSolarize, RandomAffine and RandomErasing.

    Args:
        augmentation: the augmentation policy, or a sequence of policies that the views use in turn.
        seed: in [0, 2**64).
        epoch: in [0, 2**32).
        image_indices: int64 (M,), the index of each image in its dataset, not negative.
        num_views: K, in [1, 2**24).
        image_size: side of the images in pixels, in [1, 2**15).

    Returns:
        The parameters. View k of an image is the same for every K, M and position in the batch.

    Raises:
        ValueError: if an argument is out of range, or `image_indices` is not a vector of integers.
    """
    indices = np.asarray(image_indices)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"image_indices must be a vector of integers, got {indices.dtype} of shape {indices.shape}")
    if indices.size and indices.min() < 0:
        raise ValueError(f"image_indices must not be negative, got {indices.min()}")
    _check_integer("seed", seed, 0, 2**64)
    _check_integer("epoch", epoch, 0, 2**32)
    _check_integer("num_views", num_views, 1, 2**24)
    _check_integer("image_size", image_size, 1, 2**15)

    from rr.views import view_parameters_kernel

    shape = (int(num_views), len(indices))
    parameters = ViewParameters(
        image_size=int(image_size),
        crop=np.empty((*shape, 4), np.int32),
        flip=np.empty(shape, np.bool_),
        jitter=np.empty(shape, np.bool_),
        jitter_factors=np.empty((*shape, 4), np.float32),
        jitter_order=np.empty((*shape, 4), np.int8),
        grayscale=np.empty(shape, np.bool_),
        blur_sigma=np.empty(shape, np.float32),
        solarize=np.empty(shape, np.bool_),
        affine=np.empty(shape, np.bool_),
        affine_params=np.empty((*shape, 5), np.float32),
        erase=np.empty((*shape, 4), np.int32),
    )
    p = parameters
    policies = as_policies(augmentation)
    for first_view, a in enumerate(policies):
        crop_kind = ("none", "resized", "padded").index(a.crop)
        border, erase_side = round(a.padding * image_size), round(math.sqrt(image_size * image_size * a.erase_area))
        probabilities = _floats(a.flip, a.jitter, a.grayscale, a.affine, a.erase, a.blur, a.solarize)
        strengths = _floats(a.brightness, a.contrast, a.saturation, a.hue)
        affine_ranges = _floats(a.degrees, a.translate * image_size, *a.zoom, a.shear)
        view_parameters_kernel.fill_parameters(
            np.uint64(seed), np.uint64(epoch), indices.astype(np.int64), int(image_size), first_view, len(policies),
            crop_kind, _floats(*a.scale), _floats(*a.ratio), border, probabilities, strengths, _floats(*a.blur_sigma),
            affine_ranges, erase_side, p.crop, p.flip, p.jitter, p.jitter_factors, p.jitter_order, p.grayscale,
            p.blur_sigma, p.solarize, p.affine, p.affine_params, p.erase,
        )  # fmt: skip
    return parameters


def _floats(*values: float) -> tuple[float, ...]:
    """Return the values as floats, because numba would compile the kernel again for integers."""
    return tuple(map(float, values))


def sample_precropped_view_parameters(
    augmentation: Augmentation | Sequence[Augmentation],
    seed: int,
    epoch: int,
    image_indices: NDArray[np.int64],
    num_views: int,
    image_size: int,
) -> ViewParameters:
    """Sample the parameters of K views of each of M images whose crops already exist as K * M separate images.

    The result describes one view of each of the K * M crops, in view-major order. The parameters are the same as those
    from `sample_view_parameters`, except that nothing is cropped.
    """
    uncropped = tuple(replace(policy, crop="none") for policy in as_policies(augmentation))
    return sample_view_parameters(uncropped, seed, epoch, image_indices, num_views, image_size).as_single_views()


def _check_integer(name: str, value: int, low: int, stop: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= int(value) < stop:
        raise ValueError(f"{name} must be an integer in [{low}, {stop}), got {value!r}")
