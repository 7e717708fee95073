"""Collect the sizes of your own images, and problems that are quick to find, while the images are fetched."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from rr.data import raw
from rr.data.image_decoding import decode_at_reduced_size, decode_image, has_16_bits, has_several_frames
from rr.runtime.formatting import format_count

_MAX_BLANK_RANGE = 4  # largest difference between two pixels of a blank image, out of 255
_MAX_DARK = 64  # out of 255; 14-bit values stored in 16 bits do not exceed it


class ImageFacts(NamedTuple):
    """The size of an image in pixels, and some of its properties.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        is_blank: whether all pixels have almost the same color.
        has_several_frames: whether it has several frames, as an animation does.
        is_dark: whether its values use at most a quarter of the 16-bit range, as 12-bit values do.
    """

    width: int
    height: int
    is_blank: bool
    has_several_frames: bool
    is_dark: bool


def find_image_facts(data: bytes) -> ImageFacts:
    """Decode an encoded image, if possible at a reduced size, and return information about it.

    Raises:
        UnreadableImageError: if the image cannot be decoded.
    """
    pixels, size = decode_at_reduced_size(data)
    brightest = int(pixels.max())
    is_dark = 0 < brightest <= _MAX_DARK and has_16_bits(data)
    if is_dark:
        pixels = pixels * (255 // brightest)  # enlarge the differences, as scaling the values to the full range would
    # Reducing an image averages its pixels, so the result can have a single color even if the image does not.
    blank = is_blank(pixels) and (is_dark or is_blank(decode_image(data)))
    return ImageFacts(*size, blank, has_several_frames(data), is_dark)


class ImageSummary:
    """A summary of images. The images and the information about them are added one by one."""

    def __init__(self) -> None:
        self._images: list[ImageFacts] = []
        self._train_digests: set[bytes] = set()
        self._labels: dict[bytes, int] = {}
        self._contradictory: set[bytes] = set()
        self._num_test_copies = 0

    def add_facts(self, image: ImageFacts) -> None:
        """Add information about an image."""
        self._images.append(image)

    def add_encoded(self, image: raw.EncodedImage) -> None:
        """Add an encoded image. The training images must be added first."""
        digest = hashlib.sha256(image.data).digest()
        if image.label != raw.UNLABELED and self._labels.setdefault(digest, image.label) != image.label:
            self._contradictory.add(digest)
        if image.split == "train":
            self._train_digests.add(digest)
        else:
            self._num_test_copies += digest in self._train_digests

    @property
    def facts(self) -> dict[str, Any]:
        """The summary for the record.

        `sizes` contains the width and height of the smallest and the largest image, and the median of the shorter
        sides. `blank` is the number of images with a single color. `several_frames` is the number of images with
        several frames, of which only the first is used. `dark_16_bit` is the number of 16-bit images whose values use
        at most a quarter of the range. `test_copies` is the number of test images whose file is also in the training
        split. `contradictory` is the number of distinct files that occur in several classes.
        """
        sizes = [(image.width, image.height) for image in self._images]
        by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        return {
            "sizes": {
                "smallest": list(by_area[0]),
                "largest": list(by_area[-1]),
                "median_shorter_side": int(np.median([min(size) for size in sizes])),
            },
            "blank": sum(image.is_blank for image in self._images),
            "several_frames": sum(image.has_several_frames for image in self._images),
            "dark_16_bit": sum(image.is_dark for image in self._images),
            "test_copies": self._num_test_copies,
            "contradictory": len(self._contradictory),
        }


def is_blank(pixels: np.ndarray) -> bool:
    """Return whether all pixels of an RGB image, uint8 (H, W, 3), have almost the same color."""
    sample = pixels[:: max(1, len(pixels) // 16), :: max(1, pixels.shape[1] // 16)]  # checked first, to return early
    return all((np.ptp(part.reshape(-1, 3), axis=0) <= _MAX_BLANK_RANGE).all() for part in (sample, pixels))


def format_sizes_and_problems(facts: dict[str, Any]) -> list[str]:
    """Return the summary as lines of text: the sizes, and any problems."""
    sizes = facts["sizes"]
    smallest, largest = (f"{width:,} × {height:,}" for width, height in (sizes["smallest"], sizes["largest"]))
    if smallest == largest:
        lines = [f"size of all images: {smallest} pixels"]
    else:
        lines = [f"sizes: {smallest} to {largest} pixels; median of the shorter side: {sizes['median_shorter_side']:,}"]
    if facts["several_frames"]:
        lines.append(f"{format_count(facts['several_frames'], 'images')} with several frames: only the first is used")
    if facts["dark_16_bit"]:
        lines.append(
            f"{format_count(facts['dark_16_bit'], '16-bit images')} with values of at most a quarter of the maximum, "
            "which look dark after conversion to 8 bits: scale values with fewer bits, such as 12, to 16 bits"
        )
    faults = {
        "test_copies": ("test images", "with a copy in the training split"),
        "contradictory": ("images", "with copies in several classes"),
        "blank": ("images", "of a single color"),
    }
    found = [f"{format_count(facts[key], unit)} {text}" for key, (unit, text) in faults.items() if facts[key]]
    return [*lines, *([f"found {', '.join(found)}; rr check lists them"] if found else [])]
