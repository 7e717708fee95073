"""Arrange small images and text in a larger image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rr.runtime.atomic import atomic_write

_GAP = 2  # pixels


def make_image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange uint8 (N, S, S, 3) `images` row by row on a white background; return uint8 (H, W, 3)."""
    size = images.shape[1]
    rows = -(-len(images) // columns)
    grid = np.full((rows * (size + _GAP) + _GAP, columns * (size + _GAP) + _GAP, 3), 255, np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = _GAP + row * (size + _GAP), _GAP + column * (size + _GAP)
        grid[top : top + size, left : left + size] = image
    return grid


def vstack_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack uint8 (H, W, 3) `images` of any size, aligned on the left, on a white background."""
    width = max(image.shape[1] for image in images)
    padded = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(padded)


def render_text(text: str, width: int, height: int) -> np.ndarray:
    """Return an image of a line of ASCII text, black on white, uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((2 * _GAP, height // 2), text, "black", ImageFont.load_default(16), anchor="lm")
    return np.asarray(image)


def write_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 (H, W, 3) `pixels` as a PNG atomically. Identical pixels produce identical bytes."""
    with atomic_write(target) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
