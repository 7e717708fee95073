"""Percentiles of the scores of a search among those of random pairs of gallery images."""

import numpy as np

MAX_RANDOM_PAIRS = 10_000
MIN_RANDOM_PAIRS = 10  # with fewer pairs, a percentile has no meaning


def sample_pairs(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of random pairs of different gallery images, int64 (P,) each. The sample is deterministic.

    For a small gallery, all pairs are returned; for a large one, 10,000.
    """
    if num_images * (num_images - 1) // 2 <= MAX_RANDOM_PAIRS:
        first, second = np.triu_indices(num_images, 1)
        return first, second
    rng = np.random.Generator(np.random.Philox(key=0))
    first = rng.integers(num_images, size=MAX_RANDOM_PAIRS)
    return first, (first + rng.integers(1, num_images, size=MAX_RANDOM_PAIRS)) % num_images


def percentiles(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the percentage of the scores in `reference` that are less than each score.

    If there are fewer than `MIN_RANDOM_PAIRS` scores in `reference`, return NaN.
    """
    if len(reference) < MIN_RANDOM_PAIRS:
        return np.full(len(scores), np.nan)
    return np.asarray(100 * np.searchsorted(np.sort(reference), scores) / len(reference))
