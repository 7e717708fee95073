"""Images that the stages wrote, embedded in the page."""

import base64
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

_MAX_WIDTH = 960  # CSS pixels
_MAX_PNG_BYTES, _WEBP_QUALITY = 100_000, 80  # a larger PNG is embedded as WebP, which takes a tenth of the bytes
MAX_WEBP_SIDE = 16_383  # pixels


class ByteBudget:
    """The number of bytes that images of one kind may take up on the page. Images that do not fit are only linked."""

    def __init__(self, num_bytes: int) -> None:
        self._remaining = num_bytes
        self._is_first = True

    def take(self, num_bytes: int) -> bool:
        """Return whether this many bytes are left and, if so, take them. The first request is always granted."""
        is_granted = self._is_first or num_bytes <= self._remaining
        self._is_first = False
        self._remaining -= num_bytes if is_granted else 0
        return is_granted


@dataclass(frozen=True)
class ImagePanel:
    """An embedded image.

    Attributes:
        title: the heading.
        caption: a description of the content.
        uri: the image as a data URI; empty if the page only links to the file.
        width: width on the page in CSS pixels, a multiple of the width in the file so that the pixels stay square.
        file: the file of the image.
    """

    title: str
    caption: str
    uri: str
    width: int
    file: Path


def encode_image(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return the image encoded in a file format. The options are passed to Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def data_uri(image_format: str, content: bytes) -> str:
    """Return the contents of an image file as a data URI, which a page can contain."""
    return f"data:image/{image_format};base64,{base64.b64encode(content).decode('ascii')}"


def image_panel(title: str, caption: str, png: bytes, file: Path, budget: ByteBudget, max_scale: int) -> ImagePanel:
    """Return the content of a PNG file as a panel, enlarged by an integer factor of at most `max_scale`.

    A large image is embedded as WebP with lossy compression. An image that exceeds the rest of the budget is not
    embedded, nor is a large one that exceeds the maximum size of WebP.
    """
    file_width = max(struct.unpack(">I", png[16:20])[0], 1)
    width = file_width * min(max_scale, max(1, _MAX_WIDTH // file_width))
    kind, content = "png", png
    if len(png) > _MAX_PNG_BYTES:
        image = Image.open(io.BytesIO(png))
        if max(image.size) > MAX_WEBP_SIDE:
            return ImagePanel(title, caption, "", width, file)
        kind, content = "webp", encode_image(image, "webp", quality=_WEBP_QUALITY)
    uri = data_uri(kind, content)
    return ImagePanel(title, caption, uri if budget.take(len(uri)) else "", width, file)
