"""The result of a search in a gallery of images, and a comparison of its scores with those of random pairs."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.gallery.images import ImageFile

MAX_RANDOM_PAIRS = 10_000
MIN_RANDOM_PAIRS = 10  # with fewer pairs, a percentile has no meaning


class Hit(NamedTuple):
    """A gallery image that is similar to a query.

    Attributes:
        rank: the rank, starting at 1.
        similarity: the cosine similarity to the query.
        image: the image.
        probability: the probability that both are views of the same image, or None if the relation head was not used.
        percentile: the percentage of random pairs of gallery images with a lower score, or NaN if this was not
            computed or if there are too few pairs. The score is the value that ranks the hits: the similarity, or the
            relation head's logit.
    """

    rank: int
    similarity: float
    image: ImageFile
    probability: float | None = None
    percentile: float = math.nan

    @property
    def score_text(self) -> str:
        """The probability, or the similarity if there is no probability."""
        return f"{self.similarity if self.probability is None else self.probability:.4f}"

    @property
    def percentile_text(self) -> str:
        """The percentile, or a dash if it is unknown."""
        return "–" if math.isnan(self.percentile) else f"{self.percentile:.2f}"


class QueryResult(NamedTuple):
    """A query image and the most similar gallery images, in the order of their ranks."""

    query: Path
    hits: list[Hit]


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
