"""Arrange small images in a grid."""

from pathlib import Path

import numpy as np
from PIL import Image

from rr.runtime.atomic import atomic_write

_GAP = 2  # pixels


def save_image_grid(images: np.ndarray, columns: int, target: Path) -> None:
    """Arrange uint8 (N, S, S, 3) `images` in a grid and write it as a PNG."""
    write_png(make_image_grid(images, columns), target)


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


def write_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 (H, W, 3) `pixels` as a PNG atomically. Equal pixels give equal bytes."""
    with atomic_write(target) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
