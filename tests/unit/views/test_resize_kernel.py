"""Compare the antialiased resize, and the boxes of random crops of photographs, with those of torchvision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from philox import philox_words
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rr.views.resize_kernel import resize_box
from rr.views.view_parameters_kernel import MAX_CROP_TRIES, sample_resized_crop


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchvision_crop(pixels: np.ndarray, box: tuple[int, ...], size: int) -> np.ndarray:
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    return F.resized_crop(image, *box, [size, size], antialias=True).permute(1, 2, 0).numpy()


@settings(max_examples=60)
@given(st.data())
def test_crops_equal_those_of_torchvision_within_rounding(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    size = data.draw(st.integers(1, 40))
    pixels, crop = noise(height, width, height * width), np.empty((size, size, 3), np.uint8)
    resize_box(pixels, *box, size, size, 0, 0, crop)
    assert np.abs(crop - torchvision_crop(pixels, box, size)).max() <= 0.5 + 1e-3  # rounding to integers


def test_uint8_crops_of_torchvision_differ_by_at_most_one() -> None:
    pixels, crop = noise(256, 341), np.empty((128, 128, 3), np.uint8)
    resize_box(pixels, 10, 20, 200, 300, 128, 128, 0, 0, crop)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = F.resized_crop(image, 10, 20, 200, 300, [128, 128], antialias=True).permute(1, 2, 0).numpy()
    assert np.abs(crop.astype(int) - expected).max() <= 1


def test_shrinking_averages_all_pixels() -> None:
    """Stripes of one pixel become gray. Without antialiasing, they would become black or white."""
    pixels, crop = np.zeros((64, 64, 3), np.uint8), np.empty((16, 16, 3), np.uint8)
    pixels[:, ::2] = 255
    resize_box(pixels, 0, 0, 64, 64, 16, 16, 0, 0, crop)
    assert np.abs(crop[:, 1:-1].astype(int) - 127.5).max() <= 1


def test_same_size_copies_the_box() -> None:
    pixels, crop = noise(30, 40), np.empty((16, 16, 3), np.uint8)
    resize_box(pixels, 7, 11, 16, 16, 16, 16, 0, 0, crop)
    assert np.array_equal(crop, pixels[7:23, 11:27])


def test_window_is_a_part_of_the_resized_box() -> None:
    pixels, window, full = noise(50, 70), np.empty((12, 12, 3), np.uint8), np.empty((30, 30, 3), np.uint8)
    resize_box(pixels, 0, 0, 50, 70, 30, 30, 5, 9, window)
    resize_box(pixels, 0, 0, 50, 70, 30, 30, 0, 0, full)
    assert np.array_equal(window, full[5:17, 9:21])


def reference_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], words: np.ndarray
) -> tuple[int, int, int, int]:
    """Compute the box as in `torchvision.transforms.RandomResizedCrop.get_params`, with the given random words."""
    for w0, w1, w2, w3 in (words / 2**32).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * w0)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * w1)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(w2 * (height - h + 1)), int(w3 * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("shape", [(256, 341), (341, 256), (256, 256), (30, 1000), (1000, 30), (1, 1)])
def test_boxes_of_photographs_are_those_of_torchvision(shape: tuple[int, int], scale: tuple[float, float]) -> None:
    ratio = (3 / 4, 4 / 3)
    for index in range(40):
        words = philox_words(MAX_CROP_TRIES, 5, 2, index, 1)
        box = sample_resized_crop(*shape, scale, ratio, np.uint64(5), np.uint64(2), np.uint64(index), np.uint64(1))
        assert box == reference_box(*shape, scale, ratio, words)


def test_fallback_box_is_that_of_torchvision() -> None:
    """All attempts fail for a panorama, so torchvision's own box is not random."""
    for shape in ((30, 1000), (1000, 30)):
        transform = v2.RandomResizedCrop(8, scale=(1.0, 1.0))
        params = transform.make_params([torch.zeros(3, *shape)])
        expected = tuple(params[key] for key in ("top", "left", "height", "width"))
        zero = np.uint64(0)
        assert sample_resized_crop(*shape, (1.0, 1.0), (3 / 4, 4 / 3), zero, zero, zero, zero) == expected
