"""Render search results as a self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rr.data.printable_names import display_name
from rr.gallery.images import read_images
from rr.gallery.search_results import QueryResult
from rr.report.jinja import make_jinja_environment
from rr.report.plots.image import data_uri, encode_image

_THUMBNAIL_SIZE = 256  # longest side of a thumbnail in pixels
_MAX_PNG_SIZE = 96  # thumbnails up to this size are shown enlarged, so they are stored losslessly


def render_page(results: Sequence[QueryResult], ranking: str) -> str:
    """Return the HTML of a page that shows each query image and its hits. `ranking` names the score that ranks them.

    Raises:
        UserError: if an image can no longer be read.
    """
    environment = make_jinja_environment(Path(__file__).parent, autoescape=True)
    environment.globals |= {"make_thumbnail": make_thumbnail_uri, "display_name": display_name}
    return environment.get_template("search_page.html").render(results=results, ranking=ranking)


def make_thumbnail_uri(path: Path) -> str:
    """Return a thumbnail of an image file, at most 256 pixels wide and high, as a data URI."""
    image = Image.fromarray(read_images([path])[0])
    image.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
    image_format = "png" if max(image.size) <= _MAX_PNG_SIZE else "jpeg"
    return data_uri(image_format, encode_image(image, image_format, quality=85))
