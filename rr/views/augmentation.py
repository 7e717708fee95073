"""The augmentation policy of a method, as plain data."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# For each operation with strengths: the strengths, each with an example of the operation's value.
_STRENGTHS = {
    "crop": {"scale": "resized", "ratio": "resized", "padding": "padded"},
    "jitter": dict.fromkeys(("brightness", "contrast", "saturation", "hue"), "0.8"),
    "blur": {"blur_sigma": "0.5"},
    "affine": dict.fromkeys(("degrees", "translate", "zoom", "shear"), "0.5"),
    "erase": {"erase_area": "0.5"},
}


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of an image and their probabilities. By default, all augmentations are off.

    The operations run in this order: crop, flip, affine map, color jitter, grayscale, blur, solarization,
    normalization, erasing. The paper's policies use subsets of these operations, without blur and solarization.

    Attributes:
        crop: `"resized"` crops a random box and resizes it bilinearly to the full image size (`RandomResizedCrop`);
            `"padded"` pads with zeros and crops a box of the full image size (`RandomCrop(size, padding)`).
        scale: range of the area of a resized crop as a fraction of the image area, within (0, 1].
        ratio: range of the aspect ratio (width / height) of a resized crop; its logarithm is uniformly distributed.
        padding: width of the zero border of a padded crop as a fraction of the image size, rounded to pixels.
        flip: probability of a horizontal flip.
        jitter: probability of the color jitter. The order of its four adjustments is random for each view.
        brightness: b >= 0; the brightness factor is uniformly distributed in [max(0, 1 - b), 1 + b].
        contrast: the same for the contrast factor.
        saturation: the same for the saturation factor.
        hue: h in [0, 0.5]; the hue shift is uniformly distributed in [-h, h], as a fraction of a full turn of the color
            wheel.
        grayscale: probability that all three channels are replaced by the luma.
        blur: probability of a Gaussian blur with a kernel one tenth of the image size (`GaussianBlur`).
        blur_sigma: range of the standard deviation of the blur in pixels, uniformly distributed.
        solarize: probability that every pixel value of at least one half is inverted (`RandomSolarize`).
        affine: probability of the affine map (`RandomAffine`, bilinear, filled with 0).
        degrees: d; the rotation is uniformly distributed in [-d, d].
        translate: t in [0, 1]; each translation is uniformly distributed in [-t * size, t * size], rounded to pixels.
        zoom: range of the scale factor of the affine map.
        shear: s; the horizontal shear is uniformly distributed in [-s, s] degrees.
        erase: probability that a square is erased after normalization (`RandomErasing`).
        erase_area: area of that square as a fraction of the image area. As in torchvision, a square as large as the
            image is never erased.

    Raises:
        ValueError: if a value is out of range, if an operation is on but its strengths leave every image as it is, or
            if a strength is given without its operation; the message names the field.
    """

    crop: Literal["none", "resized", "padded"] = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    padding: float = 0.125
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    affine: float = 0.0
    degrees: float = 0.0
    translate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    erase: float = 0.0
    erase_area: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in ("none", "resized", "padded"):
            raise ValueError(f"crop must be 'none', 'resized' or 'padded', got {self.crop!r}")
        for name in ("flip", "jitter", "grayscale", "blur", "solarize", "affine", "erase"):
            self._check_number(name, 1.0, "a probability")
        for name in ("brightness", "contrast", "saturation"):
            self._check_number(name, math.inf, "a finite number")
        self._check_number("hue", 0.5, "a fraction of a full turn of the color wheel")
        self._check_number("padding", 1.0, "a fraction of the image size")
        self._check_number("degrees", 180.0, "an angle in degrees")
        self._check_number("translate", 1.0, "a fraction of the image size")
        self._check_number("erase_area", 1.0, "a fraction of the image area")
        self._check_number("shear", math.nextafter(90.0, 0.0), "an angle below 90 degrees")
        self._check_range("scale", 1.0)
        self._check_range("ratio", math.inf)
        self._check_range("blur_sigma", math.inf)
        self._check_range("zoom", math.inf)
        self._check_effect()

    def _check_effect(self) -> None:
        """Raise ValueError if an operation is on, but its strengths leave every image as it is."""
        a = self
        if a.crop == "padded" and not a.padding:
            raise ValueError("crop: padded has no effect, because padding is 0: raise padding, or set crop to none")
        if a.crop == "resized" and a.scale == (1, 1) and a.ratio[0] <= 1 <= a.ratio[1]:
            raise ValueError(
                "crop: resized has no effect, because scale is [1, 1] and ratio includes 1: lower the first value of "
                "scale, or set crop to none"
            )
        if a.jitter and not any((a.brightness, a.contrast, a.saturation, a.hue)):
            raise ValueError(
                "jitter has no effect, because brightness, contrast, saturation and hue are 0: raise one of them, or "
                "set jitter to 0.0"
            )
        if a.affine and a.zoom == (1, 1) and not any((a.degrees, a.translate, a.shear)):
            raise ValueError(
                "affine has no effect, because degrees, translate and shear are 0 and zoom is [1, 1]: change one of "
                "them, or set affine to 0.0"
            )
        if a.erase and a.erase_area in (0, 1):
            reason = "0" if not a.erase_area else "1, and a square as large as the image is never erased"
            remedy = "raise" if not a.erase_area else "lower"
            raise ValueError(f"erase has no effect, because erase_area is {reason}: {remedy} it, or set erase to 0.0")

    def _check_number(self, name: str, high: float, description: str) -> None:
        value = getattr(self, name)
        if not (_is_finite(value) and 0.0 <= value <= high):
            raise ValueError(f"{name} must be {description} in [0, {high:g}], got {value!r}")

    def _check_range(self, name: str, high: float) -> None:
        value = getattr(self, name)
        is_pair = isinstance(value, tuple) and len(value) == 2 and all(_is_finite(v) for v in value)
        if not (is_pair and 0.0 < value[0] <= value[1] <= high):
            raise ValueError(f"{name} must be a tuple (low, high) with 0 < low <= high <= {high:g}, got {value!r}")


def check_given_fields(given: Collection[str]) -> None:
    """Raise ValueError if a strength is given without its operation, which is off by default.

    An operation that is switched off explicitly may have strengths, so that a variant of a policy can be made with
    `dataclasses.replace`, or with YAML's merge key: `{<<: *paper, jitter: 0.0}`.
    """
    for operation, strengths in _STRENGTHS.items():
        names = [name for name in strengths if name in given]
        if names and operation not in given:
            *others, last = names
            subject = f"{', '.join(others)} and {last} have" if others else f"{last} has"
            off = "none" if operation == "crop" else "0.0"
            raise ValueError(
                f"{subject} no effect without {operation}: set {operation}, for example to {strengths[names[0]]}, or "
                f"to {off} if it is meant to be off"
            )


def _with_check_of_given_fields(init: Callable[..., None]) -> Callable[..., None]:
    """Return the constructor of `Augmentation` with `check_given_fields`, which must not see the default values."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked_init(self: Augmentation, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        check_given_fields(signature.bind(self, *args, **kwargs).arguments)

    return checked_init


Augmentation.__init__ = _with_check_of_given_fields(Augmentation.__init__)  # type: ignore[method-assign]


def as_policies(augmentation: Augmentation | Sequence[Augmentation]) -> tuple[Augmentation, ...]:
    """Return the policies that the views of an image use in turn.

    Raises:
        ValueError: if there is no policy, or if one of them is not an `Augmentation`.
    """
    policies = tuple(augmentation) if isinstance(augmentation, Sequence) else (augmentation,)
    if not policies or not all(isinstance(policy, Augmentation) for policy in policies):
        raise ValueError(f"augmentation must be an Augmentation or a sequence of them, got {augmentation!r}")
    return policies


def blur_radius(image_size: int) -> int:
    """Return the radius of the blur kernel in pixels. The kernel size is 2 * radius + 1.

    As in SimCLR, the kernel size is about a tenth of the image size. Unlike in SimCLR, it is at least 3 (but 1 for an
    image of a single pixel).
    """
    return min(max(1, image_size // 20), image_size - 1)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


PAPER_AUGMENTATION = Augmentation(
    crop="resized", flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2
)
"""The paper's augmentation for relational reasoning and SimCLR."""
