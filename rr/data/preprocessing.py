"""How images become network inputs: the image size, and the mean and std for normalization."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

from rr.runtime.channel_values import parse_channel_values


@dataclass(frozen=True)
class Preprocessing:
    """How a dataset's images become network inputs.

    Attributes:
        image_size: height and width of the inputs in pixels.
        mean: mean of each channel, for pixel values in [0, 1].
        std: standard deviation of each channel, for pixel values in [0, 1].
        stored_size: maximum length of the shorter side of the stored photographs, or None if the images are stored as
            squares of `image_size`.

    Raises:
        ValueError: if a size is not a positive integer, or if `mean` does not consist of three numbers in [0, 1], or
            `std` of three numbers in (0, 1].
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stored_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "stored_size"):
            value = getattr(self, name)
            if name == "stored_size" and value is None:
                continue
            try:
                integer = 0 if isinstance(value, bool) else index(value)
            except TypeError:
                integer = 0
            if integer < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
            object.__setattr__(self, name, integer)
        for name in ("mean", "std"):  # a list or an array is also accepted
            object.__setattr__(self, name, parse_channel_values(name, getattr(self, name)))


def shorter_side_before_crop(image_size: int) -> int:
    """Return the length of a photograph's shorter side before its center is cropped for evaluation.

    The ratio is torchvision's: 256 pixels for a crop of 224.
    """
    return round(image_size * 256 / 224)


def is_valid_image_size(size: object) -> bool:
    """Return whether a value is a size that params.yaml and `rr import` accept, in pixels."""
    return isinstance(size, int) and 8 <= size <= 1024


def parse_preprocessing(metadata: Mapping[str, Any]) -> Preprocessing | None:
    """Return the preprocessing in a backbone file's metadata, or None if the image size, mean or std is missing.

    Args:
        metadata: the return value of `rr.backbones.weights.read_metadata`.

    Raises:
        ValueError: if one of these values is invalid.
    """
    if not {"side", "mean", "std"} <= metadata.keys():
        return None
    image_size, stored_size = metadata["side"], metadata.get("stored_size")
    for size in (image_size, stored_size):
        if size is not None and not is_valid_image_size(size):
            raise ValueError(f"its metadata has an invalid image size, {size!r}")
    return Preprocessing(image_size, metadata["mean"], metadata["std"], stored_size)
