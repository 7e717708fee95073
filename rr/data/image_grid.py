"""Arrange small images and text in a larger image."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rr.runtime.atomic import atomic_write

_GAP = 2  # pixels
_TILE_SIZE = 64  # maximum size of the images in a stage's example image, in pixels
_PANEL_IMAGES, _PANEL_IMAGE_SIZE, _PANEL_GAP, _FONT_SIZE, _LINE_HEIGHT = 2, 144, 12, 11, 15


class CaptionedImages(NamedTuple):
    """One or two results of `make_thumbnail`, shown side by side, and the lines of text below them."""

    images: Sequence[np.ndarray]
    caption: Sequence[str]


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


def shrink_tiles(images: np.ndarray) -> np.ndarray:
    """Return uint8 (N, S, S, 3) `images`, resized to 64 pixels if they are larger."""
    if images.shape[1] <= _TILE_SIZE:
        return images
    size = (_TILE_SIZE, _TILE_SIZE)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])


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


def render_captioned_images(panels: Sequence[CaptionedImages], columns: int) -> np.ndarray:
    """Arrange panels with captions of up to three lines row by row on a white background; return uint8 (H, W, 3).

    A line of text that is too long is shortened in the middle.
    """
    import matplotlib  # only for its font, which has more characters than Pillow's

    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), _FONT_SIZE)
    width = _PANEL_IMAGES * (_PANEL_IMAGE_SIZE + 2 * _GAP) - 2 * _GAP
    height = _PANEL_IMAGE_SIZE + 3 * _LINE_HEIGHT
    rows = -(-len(panels) // columns)
    size = columns * (width + _PANEL_GAP) + _PANEL_GAP, rows * (height + _PANEL_GAP) + _PANEL_GAP
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (images, caption) in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = _PANEL_GAP + column * (width + _PANEL_GAP), _PANEL_GAP + row * (height + _PANEL_GAP)
        for position, pixels in enumerate(images):
            image = Image.fromarray(pixels)
            x = left + position * (_PANEL_IMAGE_SIZE + 2 * _GAP) + (_PANEL_IMAGE_SIZE - image.width) // 2
            canvas.paste(image, (x, top + (_PANEL_IMAGE_SIZE - image.height) // 2))
        for line, text in enumerate(caption):
            draw.text((left, top + _PANEL_IMAGE_SIZE + line * _LINE_HEIGHT), _shorten(text, font, width), "black", font)
    return np.asarray(canvas)


def make_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Resize an image, uint8 (H, W, 3), to fit in a panel.

    A small image is enlarged by an integer factor without interpolation, so that its pixels are visible.
    """
    factor = _PANEL_IMAGE_SIZE // max(pixels.shape[:2])
    if factor:
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, round(side * _PANEL_IMAGE_SIZE / max(pixels.shape[:2]))) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Replace the middle of a text with an ellipsis if the text is wider than `width` pixels."""
    shortened, kept = text, len(text)
    while font.getlength(shortened) > width:
        kept -= 1
        shortened = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shortened


def write_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 (H, W, 3) `pixels` as a PNG atomically. Identical pixels produce identical bytes."""
    with atomic_write(target) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
