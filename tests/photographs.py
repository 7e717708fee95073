"""Photographs for tests: sections of the two photographs that come with scikit-learn."""

from functools import cache

import numpy as np
from sklearn.datasets import load_sample_images

SIDE = 213


@cache
def photographs() -> list[np.ndarray]:
    """Return 30 overlapping sections of photographs, uint8 (213, 213, 3). No two of them are nearly identical."""
    return [
        image[top : top + SIDE, left : left + SIDE]
        for image in load_sample_images().images
        for top in range(0, 427 - SIDE, 106)
        for left in range(0, 640 - SIDE, 106)
    ]
