"""What may happen to an image before a network sees it, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Augmentation:
    """A view policy. Every default means "off", so `Augmentation()` only normalises.

    The steps always run in this order: crop, flip, affine, colour jitter, greyscale, normalisation, erasing. The
    policies of the paper are subsets of it.

    Attributes:
        crop: `"resized"` cuts a random box and resizes it bilinearly to the full side (`RandomResizedCrop`);
            `"padded"` pads with zeros and cuts a box of the full side (`RandomCrop(side, padding)`).
        scale: range of the area share of a resized crop, within (0, 1].
        ratio: range of width / height of a resized crop, drawn uniformly in its logarithm.
        padding: width of the zero border of a padded crop as a share of the side, rounded to pixels.
        flip: probability of a horizontal flip.
        jitter: probability of the colour jitter as a whole.
        brightness, contrast, saturation: b draws a factor uniformly from [max(0, 1 - b), 1 + b].
        hue: h in [0, 0.5] draws a shift uniformly from [-h, h], in turns of the colour circle. The four adjustments
            are applied in a random order, drawn for each view.
        grayscale: probability that all three channels become the luma.
        affine: probability of the affine map (`RandomAffine`, bilinear, filled with 0).
        degrees: d draws a rotation uniformly from [-d, d].
        translate: t in [0, 1] draws each shift uniformly from [-t * side, t * side], rounded to pixels.
        zoom: range of the scale of the affine map.
        shear: s draws a horizontal shear uniformly from [-s, s] degrees.
        erase: probability of erasing a square after normalisation (`RandomErasing`).
        erase_area: area share of that square. As in torchvision, a square of the full side is never erased.

    Raises:
        ValueError: a value is impossible; the message names the field.
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
        for name in ("flip", "jitter", "grayscale", "affine", "erase"):
            self._check_number(name, 0.0, 1.0, "a probability")
        for name in ("brightness", "contrast", "saturation"):
            self._check_number(name, 0.0, math.inf, "a strength")
        self._check_number("hue", 0.0, 0.5, "a share of the colour circle")
        self._check_number("padding", 0.0, 1.0, "a share of the side")
        self._check_number("degrees", 0.0, 180.0, "an angle")
        self._check_number("translate", 0.0, 1.0, "a share of the side")
        self._check_number("erase_area", 0.0, 1.0, "an area share")
        self._check_number("shear", 0.0, math.nextafter(90.0, 0.0), "an angle below 90")
        self._check_range("scale", 1.0)
        self._check_range("ratio", math.inf)
        self._check_range("zoom", math.inf)

    def _check_number(self, name: str, low: float, high: float, kind: str) -> None:
        value = getattr(self, name)
        if not (_is_finite(value) and low <= value <= high):
            raise ValueError(f"{name} must be {kind} in [{low:g}, {high:g}], got {value!r}")

    def _check_range(self, name: str, high: float) -> None:
        value = getattr(self, name)
        good = isinstance(value, tuple) and len(value) == 2 and all(_is_finite(v) for v in value)
        if not (good and 0.0 < value[0] <= value[1] <= high):
            raise ValueError(f"{name} must be a tuple (low, high) with 0 < low <= high <= {high:g}, got {value!r}")


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
