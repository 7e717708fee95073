"""Tests of stacked images and rendered text."""

import numpy as np

from rr.runtime.image_grid import make_image_grid, render_text, vstack_images


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
