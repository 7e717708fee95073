"""An interactive map of images: each image is a dot at its two coordinates, and a script shows the images themselves.

The script `templates/image_map.js` reads the data of a map as JSON from the page, with arrays of numbers as Base64 and
all images in one sprite. It uses d3 (`templates/d3.js`). The page needs no network access and no other files.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from rr.report.plots.image import MAX_WEBP_SIDE, data_uri, encode_image

TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_IMAGES = 10_000
_NO_CLASS = 65_535  # stands for a missing class in an array of uint16
_MAX_UINT16_ROWS = 65_536
TILE_SIZE, _SMALL_TILE = 48, 32  # pixels
_MAX_LARGE_TILES = 1000
_QUALITY = 50  # WebP quality; an image of 32 x 32 pixels takes about 250 bytes


@dataclass(frozen=True)
class MapLayer:
    """A map of the images, computed with one backbone.

    Attributes:
        title: name of the layer.
        coordinates: float (N, 2); the second coordinate increases upward.
        neighbors: row numbers of the images nearest to each image, int64 (N, K), nearest first.
        predictions: predicted class of each image, int64 (N,); -1 if it is unknown. None if there are no predictions.
    """

    title: str
    coordinates: np.ndarray
    neighbors: np.ndarray
    predictions: np.ndarray | None = None


@dataclass(frozen=True)
class ImageMap:
    """Images and their maps.

    Attributes:
        name: id of the map, unique on the page.
        class_names: the name of each class; may be empty.
        labels: class of each image, int64 (N,); -1 if it is unknown.
        names: name of each image, such as its file name.
        sprite: the thumbnails of the images.
        layers: one map for each backbone.
        prediction_note: how the classes were predicted, such as "(linear)".
    """

    name: str
    class_names: list[str]
    labels: np.ndarray
    names: Sequence[str]
    sprite: "Sprite"
    layers: list[MapLayer]
    prediction_note: str = ""

    @cached_property  # the report measures the size of the JSON before it inserts it
    def json(self) -> str:
        """The map as JSON that can be inserted in a script element."""
        layers = [
            {
                "title": layer.title,
                "points": _encode_uint16(_scale_coordinates(layer.coordinates)),
                "neighbors": _encode_rows(layer.neighbors, len(self.names)),
                "predictions": ""
                if layer.predictions is None
                else _encode_uint16(_replace_negative_classes(layer.predictions)),
            }
            for layer in self.layers
        ]
        return _script_json(
            {
                "classes": self.class_names,
                "labels": _encode_uint16(_replace_negative_classes(self.labels)),
                "names": list(self.names),
                "sprite": self.sprite.name,
                "numNeighbors": self.layers[0].neighbors.shape[1],
                "predictionNote": self.prediction_note,
                "layers": layers,
            }
        )


@dataclass(frozen=True)
class Sprite:
    """Thumbnails as the tiles of one WebP image.

    Attributes:
        name: id of the sprite; identical sprites have the same id.
        tile: height and width of a thumbnail in pixels.
        columns: number of thumbnails in a row.
        webp: the image file.
    """

    name: str
    tile: int
    columns: int
    webp: bytes

    @cached_property
    def json(self) -> str:
        """The sprite as JSON that can be inserted in a script element."""
        return _script_json({"tile": self.tile, "columns": self.columns, "uri": data_uri("webp", self.webp)})


def make_sprite(thumbnails: Sequence[np.ndarray]) -> Sprite:
    """Return the sprite of square images, uint8 (S, S, 3) each.

    Tiles are 48 x 48 pixels, or 32 x 32 if there are more than 1,000 images. They are never larger than the images,
    and never so large that the sprite would exceed the maximum size of a WebP image.
    """
    columns = math.ceil(math.sqrt(len(thumbnails)))
    tile = TILE_SIZE if len(thumbnails) <= _MAX_LARGE_TILES else _SMALL_TILE
    tile = min(tile, len(thumbnails[0]), MAX_WEBP_SIDE // columns)
    sprite = Image.new("RGB", (columns * tile, math.ceil(len(thumbnails) / columns) * tile))
    for position, pixels in enumerate(thumbnails):
        row, column = divmod(position, columns)
        image = Image.fromarray(pixels)
        sprite.paste(image.resize((tile, tile), Image.Resampling.LANCZOS), (column * tile, row * tile))
    webp = encode_image(sprite, "webp", quality=_QUALITY, method=4)
    return Sprite(f"sprite-{hashlib.sha256(webp).hexdigest()[:12]}", tile, columns, webp)


def read_asset(name: str) -> str:
    """Return the text of a style sheet or script from the templates folder."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def image_map_script() -> str:
    """Return the script that draws all maps of a page, with d3 and its license."""
    return read_asset("d3.js") + read_asset("image_map.js")


def content_security_policy_hash(script: str) -> str:
    """Return the source expression with which a Content-Security-Policy permits exactly this inline script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"


def _scale_coordinates(coordinates: np.ndarray) -> np.ndarray:
    """Map the coordinates to the range from 0 to 65,535, with the same scale on both axes."""
    low, high = coordinates.min(0), coordinates.max(0)
    center, size = (low + high) / 2, max(float((high - low).max()), 1e-12)
    return np.rint(((coordinates - center) / size + 0.5) * 65_535)


def _replace_negative_classes(classes: np.ndarray) -> np.ndarray:
    return np.where(classes < 0, _NO_CLASS, classes)


def _encode_uint16(values: np.ndarray) -> str:
    return _encode(values, "<u2")


def _encode_rows(rows: np.ndarray, num_images: int) -> str:
    """Encode the row numbers of images as uint16 or, if that is too small for the number of images, as uint32."""
    return _encode(rows, "<u2" if num_images <= _MAX_UINT16_ROWS else "<u4")


def _encode(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode("ascii")


def _script_json(value: object) -> str:
    # A "<", for example in a file name, could end the script element.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
