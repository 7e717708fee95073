"""Generate `shapes`, a built-in dataset of small images in ten classes that needs no download.

Each image shows one light object on a darker, textured background with some clutter. Color, position, size, rotation,
texture and clutter are sampled independently of the class. Only the outline of the object determines the class.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from rr.data.raw import SPLITS

_CHUNK_SIZE = 256  # number of images generated at a time, to limit the memory used by temporary arrays
# Range of the square root of the object's area, as a fraction of the image size. A disc spans 46 to 56% of the image.
_SCALES = (0.41, 0.5)
_MAX_SHIFT = 0.07  # maximum offset of the object from the image center along each axis, as a fraction of the image size
_NUM_CLUTTER = 3  # number of clutter objects per image
_NOISE_STD = 0.02  # standard deviation of the pixel noise, for colors in [0, 1]

# Ranges of HSV saturation and value. Any hue may occur, but colors are pale, and the object is always lighter than the
# background. This keeps the object visible in a grayscale view and makes images differ more in shape than in color. If
# colors are strong, relational learning discriminates images by color and needs many more epochs to learn the shapes.
_BACKGROUND_TONES = ((0.05, 0.28), (0.18, 0.36))
_CLUTTER_TONES = ((0.05, 0.28), (0.25, 0.65))
_OBJECT_TONES = ((0.01, 0.12), (0.88, 1.0))

ToneRange = tuple[tuple[float, float], tuple[float, float]]
DistanceFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def generate_shapes(num_images: int, seed: int, split: str, image_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Generate labeled images; the result depends only on the arguments.

    Args:
        num_images: number of images, at least 10 (one per class).
        seed: a non-negative integer.
        split: "train" or "test". The two splits contain different images from the same distribution.
        image_size: height and width in pixels, at least 16.

    Returns:
        RGB images, uint8 (num_images, image_size, image_size, 3), and labels, int64 (num_images,), which are indices
        into CLASS_NAMES. The labels are shuffled and balanced: class sizes differ by at most one.

    Raises:
        ValueError: if num_images, seed or image_size is out of range, or if `split` is unknown.
    """
    _check_arguments(num_images, seed, split, image_size)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split)])))
    labels = rng.permutation(np.arange(num_images, dtype=np.int64) % len(CLASS_NAMES))
    images = np.empty((num_images, image_size, image_size, 3), dtype=np.uint8)
    for start in range(0, num_images, _CHUNK_SIZE):
        images[start : start + _CHUNK_SIZE] = _paint_images(labels[start : start + _CHUNK_SIZE], image_size, rng)
    return images, labels


def render_silhouettes(
    labels: np.ndarray, image_size: int, centers: np.ndarray, scales: np.ndarray, angles: np.ndarray
) -> np.ndarray:
    """Return the fraction of each pixel that the object covers, float32 (N, image_size, image_size) in [0, 1].

    Args:
        labels: indices into CLASS_NAMES, int (N,).
        image_size: height and width in pixels.
        centers: (x, y) of the centroids relative to the image center, as fractions of the image size, float (N, 2).
        scales: square roots of the areas, as fractions of the image size, float (N,). Objects of all classes have the
            same distribution of areas, so the color histogram does not reveal the class.
        angles: rotations in radians, float (N,).
    """
    x, y = _object_coordinates(image_size, centers, angles)
    masks = np.empty(x.shape, dtype=np.float32)
    for label, distance in enumerate(_OUTLINES.values()):
        rows = np.flatnonzero(labels == label)
        root_area, center_x, center_y = _root_area_and_centroid(distance)
        zoom = np.asarray(scales, dtype=np.float32)[rows, None, None] / np.float32(root_area)
        distances = distance(x[rows] / zoom + center_x, y[rows] / zoom + center_y) * zoom
        masks[rows] = _antialias(distances, image_size)
    return masks


def _check_arguments(num_images: int, seed: int, split: str, image_size: int) -> None:
    if num_images < len(CLASS_NAMES):
        raise ValueError(f"num_images must be at least {len(CLASS_NAMES)} (one image per class); got {num_images}")
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 pixels to show the shapes; got {image_size}")


def _paint_images(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Paint one image per label, from the background to the object; return uint8 (N, size, size, 3)."""
    count = len(labels)
    images = _paint_background(count, size, rng)
    for _ in range(_NUM_CLUTTER):
        images = _blend(images, _render_clutter(count, size, rng), _sample_colors(rng, count, _CLUTTER_TONES))
    masks = render_silhouettes(
        labels,
        size,
        centers=rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, (count, 2)),
        scales=rng.uniform(*_SCALES, count),
        angles=rng.uniform(0, 2 * np.pi, count),
    )
    colors = _sample_colors(rng, count, _OBJECT_TONES) * _sample_shading(count, size, rng)[..., None]
    images = _blend(images, masks, colors)
    images += _NOISE_STD * rng.standard_normal(images.shape, dtype=np.float32)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _blend(images: np.ndarray, masks: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend colors into images, float32 (N, size, size, 3), with masks (N, size, size) as weights."""
    return images + masks[..., None] * (colors - images)


def _sample_colors(rng: np.random.Generator, count: int, tones: ToneRange) -> np.ndarray:
    """Sample colors of any hue, with saturation and value in the given ranges; return RGB, float32 (count, 1, 1, 3)."""
    hue, saturation, value = (rng.uniform(*bounds, (count, 1, 1, 1)) for bounds in ((0.0, 1.0), *tones))
    # The common closed form of the conversion from HSV to RGB: each channel is a clipped triangle wave of the hue.
    phase = (hue * 6 + np.array([5, 3, 1])) % 6
    wave = np.clip(np.minimum(phase, 4 - phase), 0, 1)
    return (value * (1 - saturation * wave)).astype(np.float32)


def _paint_background(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Blend two colors with a random texture; return float32 (count, size, size, 3).

    Two plane waves with random directions produce stripes, plaids and, at low frequencies, gradients.
    """
    texture = np.full((count, size, size), 0.5, dtype=np.float32)
    for _ in range(2):
        x, _y = _object_coordinates(size, np.zeros((count, 2)), rng.uniform(0, 2 * np.pi, count))
        cycles, phase, weight = (rng.uniform(0, high, (count, 1, 1)) for high in (5, 2 * np.pi, 0.25))
        texture += (weight * np.sin(2 * np.pi * cycles * x + phase)).astype(np.float32)
    return _blend(_sample_colors(rng, count, _BACKGROUND_TONES), texture, _sample_colors(rng, count, _BACKGROUND_TONES))


def _render_clutter(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of a small rounded box (a dot, tile, pill or bar) for each image, float32 (count, size, size)."""
    x, y = _object_coordinates(size, rng.uniform(-0.5, 0.5, (count, 2)), rng.uniform(0, 2 * np.pi, count))
    half_width, half_height = rng.uniform(0.03, 0.12, (2, count, 1, 1)).astype(np.float32)
    radius = np.minimum(half_width, half_height) * rng.uniform(0, 1, (count, 1, 1)).astype(np.float32)
    return _antialias(_box_distance(x, y, half_width - radius, half_height - radius) - radius, size)


def _sample_shading(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sample brightness factors around 1 that imitate soft light from one side: float32 (count, size, size)."""
    x, _y = _object_coordinates(size, np.zeros((count, 2)), rng.uniform(0, 2 * np.pi, count))
    return 1 + np.float32(0.4) * x


def _object_coordinates(size: int, centers: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centers (x, y) relative to N objects, as fractions of the size: two float32 (N, size, size).

    The origin of an object's coordinates is its center, and the axes are rotated by its angle.
    """
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    center_x, center_y = np.asarray(centers, dtype=np.float32).T[:, :, None, None]
    angles = np.asarray(angles, dtype=np.float32)[:, None, None]
    x, y = axis[None, None, :] - center_x, axis[None, :, None] - center_y
    cosine, sine = np.cos(angles), np.sin(angles)
    return cosine * x + sine * y, cosine * y - sine * x


def _antialias(distances: np.ndarray, size: int) -> np.ndarray:
    """Convert signed distances (negative inside) to covered fractions of pixels, with a ramp one pixel wide."""
    return np.clip(0.5 - distances * size, 0, 1)


@cache
def _root_area_and_centroid(distance: DistanceFunction) -> tuple[float, float, float]:
    """Return the square root of the area and the centroid (x, y) of a shape, measured on a fine grid."""
    axis = np.linspace(-1.5, 1.5, 401, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = distance(x, y) < 0
    area = float(inside.sum()) * float(axis[1] - axis[0]) ** 2
    return area**0.5, float(x[inside].mean()), float(y[inside].mean())


# Each function returns the signed distance from (x, y) to the outline of a shape, which is negative inside. The shapes
# may have any area and centroid, because `render_silhouettes` normalizes both.


def _disc_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _crescent_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 1, 0.75 - np.hypot(x - 0.5, y))


def _heart_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), 0.5 - y
    lobe = np.hypot(x - 0.25, y - 0.75) - 0.125**0.5
    projection = 0.5 * np.maximum(x + y, 0)
    edge = np.minimum(np.hypot(x, y - 1), np.hypot(x - projection, y - projection)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, edge)


def _box_distance(
    x: np.ndarray, y: np.ndarray, half_width: np.ndarray | float, half_height: np.ndarray | float
) -> np.ndarray:
    """Return the signed distance to a box that is centered at the origin."""
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _cross_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box_distance(x, y, 1, 0.32), _box_distance(x, y, 0.32, 1))


def _make_polygon_distance(corners: np.ndarray) -> DistanceFunction:
    """Return the distance function of a simple polygon with the given corners, float (K, 2)."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared_distance = np.full(x.shape, np.inf, dtype=x.dtype)
        inside = np.zeros(x.shape, dtype=bool)
        for (from_x, from_y), (to_x, to_y) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
            edge_x, edge_y, dx, dy = to_x - from_x, to_y - from_y, x - from_x, y - from_y
            projection = np.clip((dx * edge_x + dy * edge_y) * (1 / (edge_x**2 + edge_y**2)), 0, 1)
            squared_distance = np.minimum(
                squared_distance, (dx - projection * edge_x) ** 2 + (dy - projection * edge_y) ** 2
            )
            if edge_y:  # a point is inside if a ray to its right crosses an odd number of edges
                inside ^= ((from_y > y) != (to_y > y)) & (dx < dy * (edge_x / edge_y))
        return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(squared_distance)

    return distance


def _radial_corners(radii: tuple[float, ...], repeats: int) -> np.ndarray:
    """Return corners, float (len(radii) * repeats, 2), at equal angular steps; their radii cycle through `radii`."""
    angles = np.arange(len(radii) * repeats) * (2 * np.pi / (len(radii) * repeats))
    return np.tile(radii, repeats)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


_HOURGLASS = np.array([(-0.8, -1), (0.8, -1), (0.15, 0), (0.8, 1), (-0.8, 1), (-0.15, 0)])
_ARROW = np.array([(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.8, -0.1)])

_OUTLINES: dict[str, DistanceFunction] = {
    "disc": _disc_distance,
    "ring": _ring_distance,
    "triangle": _make_polygon_distance(_radial_corners((1.0,), 3)),
    "square": _make_polygon_distance(_radial_corners((1.0,), 4)),
    "star": _make_polygon_distance(_radial_corners((1.0, 0.45), 5)),
    "cross": _cross_distance,
    "crescent": _crescent_distance,
    "heart": _heart_distance,
    "hourglass": _make_polygon_distance(_HOURGLASS),
    "arrow": _make_polygon_distance(_ARROW),
}
CLASS_NAMES: tuple[str, ...] = tuple(_OUTLINES)
