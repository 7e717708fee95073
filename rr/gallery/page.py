"""The answers as one HTML page that needs no other file: each picture that was asked for, and its nearest."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from rr.gallery import pictures

if TYPE_CHECKING:
    from rr.gallery.search import Answer

_SIDE = 256  # longest side of a thumbnail, in pixels
_EXACT = 96  # up to this side a picture is stored without loss: it is shown enlarged


def render(answers: Sequence["Answer"]) -> str:
    """The page. Raises UserError for a picture that cannot be read any more."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"thumbnail": thumbnail, "shown": _shown}
    return environment.get_template("page.html").render(answers=answers)


def thumbnail(file: Path) -> str:
    """The picture in `file`, at most 256 pixels wide and high, as a data URI."""
    picture = Image.fromarray(pictures.read(file))
    picture.thumbnail((_SIDE, _SIDE))
    kind = "png" if max(picture.size) <= _EXACT else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shown(path: str | Path) -> str:
    return pictures.printable(pictures.text(path))
