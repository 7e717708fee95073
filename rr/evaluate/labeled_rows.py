"""Choose the labeled training images that a protocol uses, and hold out some of them for validation."""

import numpy as np

from rr.data.label_fraction import keep_label_fraction, shuffle_class
from rr.params import FinetuneConfig, LinearConfig

_VALIDATION_STREAM = 1 << 32  # added to the class number so that the validation rows use their own random numbers


def choose_labeled_rows(labels: np.ndarray, config: LinearConfig | FinetuneConfig, seed: int) -> np.ndarray:
    """Return the sorted rows of the images whose labels a protocol uses, int64 (R,).

    These are `images_per_class` random images of each class or, if it is None, a fraction `label_fraction` of each
    class. A smaller selection is always a subset of a larger one.

    Args:
        labels: label of each training image, int64 (N,).
        config: settings of the protocol.
        seed: seed for the random choice.
    """
    if config.images_per_class is None:
        return np.flatnonzero(keep_label_fraction(labels, config.label_fraction or 1.0, seed) >= 0)
    rows = [shuffle_class(labels, label, seed)[: config.images_per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(rows))


def choose_validation_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the sorted rows of a random fraction of the images of each class, int64 (R,).

    At least one image per class is chosen, but none from a class with a single image.

    Args:
        labels: label of each labeled training image, int64 (N,).
        fraction: fraction of each class to choose, within (0, 1).
        seed: seed for the random choice.
    """
    rows = []
    for label in np.unique(labels):
        order = shuffle_class(labels, label, seed, _VALIDATION_STREAM)
        rows.append(order[: min(max(1, round(fraction * len(order))), len(order) - 1)])
    return np.sort(np.concatenate(rows))
