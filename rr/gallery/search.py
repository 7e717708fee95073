"""Find the most similar vectors by cosine similarity, with an exact search, and compare scores with random pairs."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.gallery.images import ImageFile

MAX_RANDOM_PAIRS = 10_000


class Hit(NamedTuple):
    """An image of the gallery that is similar to a query.

    Attributes:
        rank: the rank, from 1.
        similarity: the cosine similarity to the query.
        probability: the probability that both show the same thing, or None if the relation head was not used.
        percentile: the percentage of random pairs of the gallery with a lower score, or NaN if it has no pairs. The
            score is the one by which the hits are ranked: the similarity, or the logit of the relation head.
        image: the image.
    """

    rank: int
    similarity: float
    probability: float | None
    percentile: float
    image: ImageFile

    @property
    def score_text(self) -> str:
        """The probability, or the similarity if there is no probability."""
        return f"{self.similarity if self.probability is None else self.probability:.4f}"

    @property
    def percentile_text(self) -> str:
        """The percentile, or a dash if it is unknown."""
        return "–" if math.isnan(self.percentile) else f"{self.percentile:.2f}"


class QueryResult(NamedTuple):
    """A query image and the most similar images of the gallery in the order of their ranks."""

    query: Path
    hits: list[Hit]


def sample_pairs(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of random pairs of different gallery images, int64 (P,) each. The choice is always the same.

    They are all pairs of a small gallery, and 10,000 pairs of a large one.
    """
    if num_images * (num_images - 1) // 2 <= MAX_RANDOM_PAIRS:
        first, second = np.triu_indices(num_images, 1)
        return first, second
    rng = np.random.Generator(np.random.Philox(key=0))
    first = rng.integers(num_images, size=MAX_RANDOM_PAIRS)
    return first, (first + rng.integers(1, num_images, size=MAX_RANDOM_PAIRS)) % num_images


def percentiles(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the percentage of the scores in `reference` that are less than each score; NaN if there are none."""
    if not len(reference):
        return np.full(len(scores), np.nan)
    return np.asarray(100 * np.searchsorted(np.sort(reference), scores) / len(reference))


def find_nearest(queries_QD: np.ndarray, gallery_ND: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the cosine similarities of the `top` gallery vectors that are most similar to each query.

    Rows of equal similarity keep the order of the gallery. The similarity to a zero vector is 0.

    Returns:
        Rows, int64 (Q, min(top, N)), and similarities, float32 (Q, min(top, N)), in descending order of similarity.
    """
    norm_N = _nonzero_norms(gallery_ND)
    rows, similarities = [], []
    for query_D in queries_QD / _nonzero_norms(queries_QD)[:, None]:  # one at a time, to hold only N similarities
        distance_N = -np.clip(gallery_ND @ query_D / norm_N, -1, 1)
        # Only the rows up to the last distance of the result are sorted, which takes a tenth of the time.
        last = np.partition(distance_N, top - 1)[top - 1] if top < len(distance_N) else 1
        candidates = np.flatnonzero(~(distance_N > last))  # includes NaN, which is sorted to the end
        order = candidates[np.argsort(distance_N[candidates], kind="stable")][:top]
        rows.append(order)
        similarities.append(-distance_N[order])
    return np.stack(rows), np.stack(similarities)


def cosine_similarities(first_PD: np.ndarray, second_PD: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each pair of rows, float32 (P,)."""
    products = np.einsum("ij,ij->i", first_PD, second_PD)
    return np.asarray(np.clip(products / _nonzero_norms(first_PD) / _nonzero_norms(second_PD), -1, 1))


def _nonzero_norms(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the norm of each row, and 1 for rows of zeros."""
    norm_N = np.sqrt(np.einsum("ij,ij->i", vectors_ND, vectors_ND))  # unlike np.linalg.norm, without a copy
    return np.where(norm_N > 0, norm_N, 1)
