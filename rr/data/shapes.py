"""`shapes`: an embedded set of small pictures in ten classes, drawn from a seed, with nothing to download.

Each picture shows one light object on a darker, textured background with some clutter. Colour, position, size,
rotation, texture and clutter are drawn independently of the class: only the outline of the object tells the class.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

SPLITS: tuple[str, ...] = ("train", "test")

_CHUNK = 256  # pictures drawn at a time: a few MB of working memory, however large the set
_SCALES = (0.41, 0.5)  # square root of the object's area, in sides: a disc spans 46 to 56 % of the side
_MAX_SHIFT = 0.07  # farthest the object's centre lies from the picture's on each axis, in sides
_CLUTTER_ITEMS = 3
_NOISE = 0.02  # standard deviation of the pixel noise, with colours in 0..1

# (lowest, highest) HSV saturation and value. Hues are free but pale, and the object is always lighter than the ground:
# so it stays visible in a greyscale view, and pictures differ more by shape than by palette. With strong colours
# relational learning tells pictures apart by their palettes, and needs many more epochs to find the shapes.
_GROUND_TONES = ((0.05, 0.28), (0.18, 0.36))
_CLUTTER_TONES = ((0.05, 0.28), (0.25, 0.65))
_OBJECT_TONES = ((0.01, 0.12), (0.88, 1.0))

Tones = tuple[tuple[float, float], tuple[float, float]]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def generate(count: int, seed: int, split: str, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draws a set of labelled pictures; the result depends on the arguments alone.

    Args:
        count: number of pictures, at least 10 (one per class).
        seed: a non-negative integer.
        split: "train" or "test"; the two hold different pictures of the same distribution.
        side: height and width in pixels, at least 16.

    Returns:
        images, uint8 [count, side, side, 3] (RGB), and labels, int64 [count], indices into CLASS_NAMES, shuffled and
        balanced: the numbers of pictures per class differ by at most one.

    Raises:
        ValueError: count, seed, split or side is out of range.
    """
    _check(count, seed, split, side)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split)])))
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASS_NAMES))
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        images[start : start + _CHUNK] = _draw(labels[start : start + _CHUNK], side, rng)
    return images, labels


def silhouettes(
    labels: np.ndarray, side: int, centres: np.ndarray, scales: np.ndarray, angles: np.ndarray
) -> np.ndarray:
    """Returns the share of each pixel that the object covers, float32 [n, side, side] in 0..1 (anti-aliased edges).

    Args:
        labels: int [n], indices into CLASS_NAMES.
        side: height and width in pixels.
        centres: float [n, 2], (x, y) of the centroids in sides, (0, 0) being the middle of the picture.
        scales: float [n], square roots of the areas in sides. Sizing by area keeps the number of coloured pixels,
            and with it the colour histogram, free of the class.
        angles: float [n], rotations in radians.
    """
    x, y = _local_axes(side, centres, angles)
    cover = np.empty(x.shape, dtype=np.float32)
    for kind, distance in enumerate(_OUTLINES.values()):
        rows = np.flatnonzero(labels == kind)
        area_root, centre_x, centre_y = _extent(distance)
        zoom = np.asarray(scales, dtype=np.float32)[rows, None, None] / np.float32(area_root)
        gap = distance(x[rows] / zoom + centre_x, y[rows] / zoom + centre_y) * zoom
        cover[rows] = _coverage(gap, side)
    return cover


def _check(count: int, seed: int, split: str, side: int) -> None:
    if count < len(CLASS_NAMES):
        raise ValueError(f"count must be at least {len(CLASS_NAMES)}, one picture per class; got {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if side < 16:
        raise ValueError(f"side must be at least 16 pixels for the shapes to be told apart; got {side}")


def _draw(labels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one picture per label, back to front: uint8 [n, side, side, 3]."""
    count = len(labels)
    picture = _background(count, side, rng)
    for _ in range(_CLUTTER_ITEMS):
        picture = _over(picture, _clutter_item(count, side, rng), _colours(rng, count, _CLUTTER_TONES))
    cover = silhouettes(
        labels,
        side,
        centres=rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, (count, 2)),
        scales=rng.uniform(*_SCALES, count),
        angles=rng.uniform(0, 2 * np.pi, count),
    )
    paint = _colours(rng, count, _OBJECT_TONES) * _shading(count, side, rng)[..., None]
    picture = _over(picture, cover, paint)
    picture += _NOISE * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _over(picture: np.ndarray, cover: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """Lays paint on pictures where cover, [n, side, side], says; both broadcast to float32 [n, side, side, 3]."""
    return picture + cover[..., None] * (paint - picture)


def _colours(rng: np.random.Generator, count: int, tones: Tones) -> np.ndarray:
    """Draws colours of any hue and of given saturations and values: float32 [count, 1, 1, 3], to spread over pixels."""
    hue, saturation, value = (rng.uniform(*span, (count, 1, 1, 1)) for span in ((0.0, 1.0), *tones))
    # The usual closed form of HSV to RGB: each channel is a clipped triangle wave of the hue.
    phase = (hue * 6 + np.array([5, 3, 1])) % 6
    wave = np.clip(np.minimum(phase, 4 - phase), 0, 1)
    return (value * (1 - saturation * wave)).astype(np.float32)


def _background(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Blends two colours along a random texture: float32 [count, side, side, 3].

    Two plane waves of random direction make stripes, plaids and, at low frequency, gradients.
    """
    texture = np.full((count, side, side), 0.5, dtype=np.float32)
    for _ in range(2):
        x, _unused = _local_axes(side, np.zeros((count, 2)), rng.uniform(0, 2 * np.pi, count))
        cycles, phase, weight = (rng.uniform(0, top, (count, 1, 1)) for top in (5, 2 * np.pi, 0.25))
        texture += (weight * np.sin(2 * np.pi * cycles * x + phase)).astype(np.float32)
    return _over(_colours(rng, count, _GROUND_TONES), texture, _colours(rng, count, _GROUND_TONES))


def _clutter_item(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Covers of one small piece per picture, [n, side, side]: a rounded box, so a dot, tile, pill or bar."""
    x, y = _local_axes(side, rng.uniform(-0.5, 0.5, (count, 2)), rng.uniform(0, 2 * np.pi, count))
    width, height = rng.uniform(0.03, 0.12, (2, count, 1, 1)).astype(np.float32)
    rounding = np.minimum(width, height) * rng.uniform(0, 1, (count, 1, 1)).astype(np.float32)
    gap = _box(x, y, width - rounding, height - rounding) - rounding
    return _coverage(gap, side)


def _shading(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A soft light from a random direction: float32 factors [n, side, side] around 1."""
    x, _unused = _local_axes(side, np.zeros((count, 2)), rng.uniform(0, 2 * np.pi, count))
    return 1 + np.float32(0.4) * x


def _local_axes(side: int, centres: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres in n shifted and turned frames: two float32 [n, side, side], in sides."""
    axis = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    shift_x, shift_y = np.asarray(centres, dtype=np.float32).T[:, :, None, None]
    angles = np.asarray(angles, dtype=np.float32)[:, None, None]
    x, y = axis[None, None, :] - shift_x, axis[None, :, None] - shift_y
    cosine, sine = np.cos(angles), np.sin(angles)
    return cosine * x + sine * y, cosine * y - sine * x


def _coverage(gap: np.ndarray, side: int) -> np.ndarray:
    """Turns signed distances in sides (negative inside) into the covered share of the pixel: a one-pixel ramp."""
    return np.clip(0.5 - gap * side, 0, 1)


@cache
def _extent(distance: Distance) -> tuple[float, float, float]:
    """The square root of the area and the centroid (x, y) of a shape in its own frame, measured on a fine grid."""
    axis = np.linspace(-1.5, 1.5, 401, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = distance(x, y) < 0
    area = float(inside.sum()) * float(axis[1] - axis[0]) ** 2
    return area**0.5, float(x[inside].mean()), float(y[inside].mean())


# Signed distances from (x, y) to the outline of each shape in its own frame, negative inside; `_extent` evens out the
# areas and centres.


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 1, 0.75 - np.hypot(x - 0.5, y))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), 0.5 - y
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.125**0.5
    along = 0.5 * np.maximum(x + y, 0)
    edge = np.minimum(np.hypot(x, y - 1), np.hypot(x - along, y - along)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, edge)


def _box(x: np.ndarray, y: np.ndarray, width: np.ndarray | float, height: np.ndarray | float) -> np.ndarray:
    """Distance to a box of the given half width and half height."""
    over_x, over_y = np.abs(x) - width, np.abs(y) - height
    return np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0)) + np.minimum(np.maximum(over_x, over_y), 0)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 1, 0.32), _box(x, y, 0.32, 1))


def _polygon(corners: np.ndarray) -> Distance:
    """Builds the distance to a simple polygon with corners [k, 2]."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = np.full(x.shape, np.inf, dtype=x.dtype)
        inside = np.zeros(x.shape, dtype=bool)
        for (from_x, from_y), (to_x, to_y) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
            edge_x, edge_y, dx, dy = to_x - from_x, to_y - from_y, x - from_x, y - from_y
            along = np.clip((dx * edge_x + dy * edge_y) * (1 / (edge_x**2 + edge_y**2)), 0, 1)
            squared = np.minimum(squared, (dx - along * edge_x) ** 2 + (dy - along * edge_y) ** 2)
            if edge_y:  # a point is inside when a ray to its right crosses an odd number of edges
                inside ^= ((from_y > y) != (to_y > y)) & (dx < dy * (edge_x / edge_y))
        return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(squared)

    return distance


def _spokes(radii: tuple[float, ...], turns: int) -> np.ndarray:
    """Corners [len(radii) * turns, 2] at equal angles, their radii repeating."""
    angles = np.arange(len(radii) * turns) * (2 * np.pi / (len(radii) * turns))
    return np.tile(radii, turns)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


_HOURGLASS = np.array([(-0.8, -1), (0.8, -1), (0.15, 0), (0.8, 1), (-0.8, 1), (-0.15, 0)])
_ARROW = np.array([(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.8, -0.1)])

_OUTLINES: dict[str, Distance] = {
    "disc": _disc,
    "ring": _ring,
    "triangle": _polygon(_spokes((1.0,), 3)),
    "square": _polygon(_spokes((1.0,), 4)),
    "star": _polygon(_spokes((1.0, 0.45), 5)),
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "hourglass": _polygon(_HOURGLASS),
    "arrow": _polygon(_ARROW),
}
CLASS_NAMES: tuple[str, ...] = tuple(_OUTLINES)
