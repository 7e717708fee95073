"""Tests of the built-in `shapes` dataset: reproducible, balanced, and separable by shape but not by color."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from rr.data.shapes import CLASS_NAMES, generate_shapes, render_silhouettes


def test_shape_and_dtype_of_result() -> None:
    images, labels = generate_shapes(37, seed=3, split="train", image_size=24)
    assert (images.shape, images.dtype) == ((37, 24, 24, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((37,), np.int64)
    assert images.min() < 64
    assert images.max() > 192  # uses the range of uint8, not 0..1
    assert len(set(CLASS_NAMES)) == 10


def test_same_arguments_give_same_images() -> None:
    first, second = generate_shapes(300, seed=5, split="test"), generate_shapes(300, seed=5, split="test")
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_global_random_state_is_not_used() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    images = generate_shapes(10, seed=0, split="train")[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    np.testing.assert_array_equal(generate_shapes(10, seed=0, split="train")[0], images)


@pytest.mark.parametrize("count", [10, 123, 1000])
def test_labels_are_balanced_and_shuffled(count: int) -> None:
    labels = generate_shapes(count, seed=0, split="train")[1]
    per_class = np.bincount(labels, minlength=len(CLASS_NAMES))
    assert len(per_class) == len(CLASS_NAMES)
    assert np.ptp(per_class) <= 1
    assert not np.array_equal(labels, np.arange(count) % len(CLASS_NAMES))
    assert not np.array_equal(labels, np.sort(labels))


def test_all_images_differ() -> None:
    image_sets = [generate_shapes(200, seed, split)[0] for seed in (0, 1) for split in ("train", "test")]
    assert len({image.tobytes() for images in image_sets for image in images}) == 800


def _color_features(images: np.ndarray) -> np.ndarray:
    """Return the mean and standard deviation of each channel and a 64-bin color histogram, float [n, 70]."""
    bins = (images // 64).astype(np.int64) @ np.array([16, 4, 1])
    histograms = np.stack([np.bincount(row.ravel(), minlength=64) for row in bins])
    return np.concatenate([images.mean((1, 2)), images.std((1, 2)), histograms], axis=1)


def test_color_does_not_predict_class() -> None:
    (train, train_labels), (test, test_labels) = generate_shapes(2000, 0, "train"), generate_shapes(1500, 0, "test")
    train_features, test_features = _color_features(train), _color_features(test)
    # Chance is 0.10. Histograms contain a little information on the length of the outline, because the pixels on the
    # outline are blends of two colors.
    for columns, bound in ((slice(0, 6), 0.13), (slice(0, None), 0.18)):
        classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        classifier.fit(train_features[:, columns], train_labels)
        assert classifier.score(test_features[:, columns], test_labels) < bound


def _render_rotated(angle: float, size: int = 32) -> np.ndarray:
    """Render one noise-free silhouette per class, rotated by `angle` radians, [10, size, size]."""
    count = len(CLASS_NAMES)
    return render_silhouettes(np.arange(count), size, np.zeros((count, 2)), np.full(count, 0.4), np.full(count, angle))


def test_silhouettes_have_given_area_and_center() -> None:
    masks = _render_rotated(0.7, size=64)
    assert (masks.min(), masks.max()) == (0, 1)
    areas = masks.mean((1, 2))
    np.testing.assert_allclose(areas, 0.4**2, rtol=0.02)
    axis = (np.arange(64) + 0.5) / 64 - 0.5
    for profiles in (masks.mean(1), masks.mean(2)):  # along x and along y
        np.testing.assert_allclose((profiles * axis).mean(1) / areas, 0, atol=0.002)


def test_silhouettes_follow_center_and_angle() -> None:
    def arrow(center: tuple[float, float], angle: float) -> np.ndarray:
        pose = np.array([center]), np.array([0.3]), np.array([angle])
        return render_silhouettes(np.array([CLASS_NAMES.index("arrow")]), 32, *pose)[0]

    still = arrow((0, 0), 0)
    np.testing.assert_allclose(arrow((4 / 32, -2 / 32), 0), np.roll(still, (-2, 4), axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(arrow((0, 0), np.pi / 2), np.rot90(still, -1), atol=1e-4)


def test_silhouettes_differ_at_any_rotation() -> None:
    upright = _render_rotated(0)
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        gaps = np.abs(upright[:, None] - _render_rotated(angle)[None]).sum((2, 3)) / upright.sum((1, 2))[:, None]
        gaps[np.eye(len(gaps), dtype=bool)] = np.inf  # a shape may equal itself
        assert gaps.min() > 0.1, f"two classes look alike at {angle:.2f} rad"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 0, "train"), "num_images must be at least 10"),
        ((10, -1, "train"), "seed must not be negative"),
        ((10, 0, "valid"), "unknown split 'valid'; expected one of train, test"),
        ((10, 0, "train", 15), "image_size must be at least 16"),
    ],
)
def test_invalid_arguments_raise(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_shapes(*arguments)
