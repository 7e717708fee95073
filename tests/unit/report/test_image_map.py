"""Test the data of an image map: coordinates, classes and neighbors as the script reads them, and the sprite."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from rr.report.plots import image_map
from rr.report.plots.image import MAX_WEBP_SIDE
from rr.report.plots.image_map import MAX_IMAGES, ImageMap, MapLayer, make_sprite, read_asset


def decode(text: str, dtype: str = "<u2") -> list[int]:
    return np.frombuffer(base64.b64decode(text), dtype).tolist()


def make_map(**changes: object) -> ImageMap:
    coordinates = np.array([[0.0, 0.0], [10.0, 5.0], [0.0, 5.0]])
    layer = MapLayer("one", coordinates, np.array([[1, 2], [2, 0], [1, 0]]), np.array([1, -1, 0]))
    sprite = make_sprite([np.zeros((8, 8, 3), np.uint8)] * 3)
    values = {
        "name": "map",
        "class_names": ["a", "</script>"],
        "labels": np.array([0, 1, -1]),
        "names": ["x", "y", "z"],
    }
    return ImageMap(**(values | {"sprite": sprite, "layers": [layer]} | changes))  # type: ignore[arg-type]


def test_data_of_a_map() -> None:
    text = make_map().json
    assert "<" not in text
    data = json.loads(text)
    (layer,) = data["layers"]
    # The wider axis fills the square. The other axis has the same scale and is centered.
    assert decode(layer["points"]) == [0, 16384, 65535, 49151, 0, 49151]
    assert decode(layer["neighbors"]) == [1, 2, 2, 0, 1, 0]
    assert decode(layer["predictions"]) == [1, 65535, 0]
    assert decode(data["labels"]) == [0, 1, 65535]
    assert (data["classes"], data["names"], data["numNeighbors"]) == (["a", "</script>"], ["x", "y", "z"], 2)


def test_map_and_sprite_are_serialized_once() -> None:
    image_map = make_map()
    assert image_map.json is image_map.json
    assert image_map.sprite.json is image_map.sprite.json


def test_neighbors_in_a_map_of_many_images() -> None:
    for count, dtype in ((65_536, "<u2"), (65_537, "<u4")):
        neighbors = np.arange(count)[::-1, None]
        layer = MapLayer("one", np.zeros((count, 2)), neighbors)
        (data,) = json.loads(make_map(names=[""] * count, layers=[layer]).json)["layers"]
        assert decode(data["neighbors"], dtype) == neighbors[:, 0].tolist()
    # The script reads the same type for the same number of images.
    assert "decode(layer.neighbors, count > 65536 ? Uint32Array : Uint16Array)" in read_asset("image_map.js")


def test_identical_points_and_missing_predictions() -> None:
    layer = MapLayer("one", np.ones((3, 2)), np.zeros((3, 1), np.int64))
    (data,) = json.loads(make_map(layers=[layer]).json)["layers"]
    assert set(decode(data["points"])) == {32768}
    assert data["predictions"] == ""


def test_sprite_contains_every_image_in_its_tile() -> None:
    shades = [0, 60, 120, 180, 240]
    sprite = make_sprite([np.full((16, 16, 3), shade, np.uint8) for shade in shades])
    data = json.loads(sprite.json)
    assert (data["tile"], data["columns"]) == (16, 3)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["uri"].partition(",")[2]))).convert("L"))
    assert pixels.shape == (32, 48)
    centers = [int(pixels[16 * (i // 3) + 8, 16 * (i % 3) + 8]) for i in range(5)]
    assert np.abs(np.array(centers) - shades).max() <= 3


def test_size_of_a_sprite_is_bounded() -> None:
    assert make_sprite([np.zeros((64, 64, 3), np.uint8)]).tile == 48
    assert make_sprite([np.zeros((64, 64, 3), np.uint8)] * 1001).tile == 32
    # The sides of the largest sprite are shorter than the longest side that WebP allows.
    assert 32 * np.ceil(np.sqrt(MAX_IMAGES)) < MAX_WEBP_SIDE


def test_tiles_of_very_many_images_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_map, "MAX_WEBP_SIDE", 200)
    sprite = make_sprite([np.zeros((64, 64, 3), np.uint8)] * 90)
    assert (sprite.tile, sprite.columns) == (20, 10)
