"""Many small pictures as one."""

from pathlib import Path

import numpy as np
from PIL import Image

from rr.runtime.atomic import replacing

_GAP = 2


def contact_sheet(images: np.ndarray, columns: int, target: Path) -> None:
    """Write uint8 (N, S, S, 3) `images` row by row into one PNG, white between them."""
    write_png(arrange(images, columns), target)


def arrange(images: np.ndarray, columns: int) -> np.ndarray:
    """Lay uint8 (N, S, S, 3) `images` row by row on white; uint8 (H, W, 3)."""
    side = images.shape[1]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (side + _GAP) + _GAP, columns * (side + _GAP) + _GAP, 3), 255, np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = _GAP + row * (side + _GAP), _GAP + column * (side + _GAP)
        sheet[top : top + side, left : left + side] = image
    return sheet


def write_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 (H, W, 3) as a PNG, all or nothing; the same pixels give the same bytes."""
    with replacing(target) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
