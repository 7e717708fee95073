"""Remove some of the labels, for semi-supervised training and few-label evaluation."""

import numpy as np


def shuffle_class(labels: np.ndarray, label: int, seed: int, stream: int = 0) -> np.ndarray:
    """Return the positions of a class in random order, int64 (R,). Each `stream` gives a different order."""
    positions = np.flatnonzero(labels == label)
    return positions[np.random.Generator(np.random.Philox(key=[seed, int(label) + stream])).permutation(len(positions))]


def keep_label_fraction(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the labels, int64 (N,), with a random `fraction` of each class kept and the rest replaced by -1.

    At least one label of each class is kept, unless `fraction` is 0. `seed` determines which labels are kept.
    """
    kept = np.full_like(labels, -1)
    if fraction <= 0:
        return kept
    for label in np.unique(labels[labels >= 0]):
        positions = shuffle_class(labels, label, seed)
        kept[positions[: max(1, round(fraction * len(positions)))]] = label
    return kept
