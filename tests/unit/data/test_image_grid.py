"""Tests of image grids and of images of text."""

import numpy as np

from rr.data.image_grid import (
    CaptionedImages,
    make_image_grid,
    make_thumbnail,
    render_captioned_images,
    render_text,
    shrink_tiles,
    vstack_images,
)


def test_stacked_images_are_aligned_on_the_left_of_a_white_background() -> None:
    stacked = vstack_images([np.zeros((2, 3, 3), np.uint8), np.full((1, 5, 3), 7, np.uint8)])
    assert stacked[..., 0].tolist() == [[0, 0, 0, 255, 255]] * 2 + [[7] * 5]


def test_grid_rows_are_filled_from_the_left() -> None:
    grid = make_image_grid(np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, 3), columns=2)
    assert grid[..., 0][2::3, 2::3].tolist() == [[0, 1], [2, 255]]


def test_text_is_black_on_white_and_differs() -> None:
    one, two = render_text("1", 40, 30), render_text("2", 40, 30)
    assert one.shape == two.shape == (30, 40, 3)
    assert (one.min(), one.max()) == (0, 255)
    assert not np.array_equal(one, two)
    assert (render_text("", 40, 30) == 255).all()


def test_thumbnails_keep_the_aspect_ratio_and_show_the_pixels_of_small_images() -> None:
    small = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    assert np.array_equal(make_thumbnail(small), np.kron(small, np.ones((4, 4, 1), np.uint8)))
    assert make_thumbnail(np.zeros((100, 400, 3), np.uint8)).shape == (36, 144, 3)
    assert make_thumbnail(np.zeros((144, 144, 3), np.uint8)).shape == (144, 144, 3)


def test_panels_show_their_images_and_the_start_and_end_of_long_captions() -> None:
    images = [np.full((144, 144, 3), value, np.uint8) for value in (50, 100)]
    captions = ["train, cat: " + middle * 100 + "end.png" for middle in "bd"]  # letters of the same width
    rendered = [
        render_captioned_images([CaptionedImages(images, ["near duplicate", text])] * 3, columns=2) for text in captions
    ]
    assert rendered[0].shape == rendered[1].shape
    values, counts = np.unique(rendered[0], return_counts=True)
    assert counts[values == 50] >= 3 * images[0].size
    assert counts[values == 100] >= 3 * images[0].size
    gap, image_size, panel_width = 12, 144, 292
    second_line = slice(gap + image_size + 15, gap + image_size + 30)  # of the caption of the first panel
    panel_end = gap + panel_width
    differing = (rendered[0] != rendered[1])[second_line].any(axis=(0, 2)).nonzero()[0]
    differing = differing[differing < panel_end]
    assert differing.min() > gap + 50
    assert differing.max() < panel_end - 40
    assert (rendered[0][second_line, panel_end : panel_end + gap] == 255).all()


def test_thumbnail_of_a_very_long_image_is_not_empty() -> None:
    assert make_thumbnail(np.zeros((2, 700, 3), np.uint8)).shape == (1, 144, 3)
    assert make_thumbnail(np.zeros((700, 2, 3), np.uint8)).shape == (144, 1, 3)
    assert make_thumbnail(np.zeros((300, 200, 3), np.uint8)).shape == (144, 96, 3)


def test_only_large_tiles_are_shrunk() -> None:
    small = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    assert shrink_tiles(small) is small
    assert shrink_tiles(np.zeros((3, 224, 224, 3), np.uint8)).shape == (3, 64, 64, 3)
