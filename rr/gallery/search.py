"""Find the most similar vectors by cosine similarity, with an exact search."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.gallery.images import ImageFile


class Hit(NamedTuple):
    """An image of the gallery, its rank (from 1) and its cosine similarity to the query."""

    rank: int
    similarity: float
    image: ImageFile


class QueryResult(NamedTuple):
    """A query image and the most similar images of the gallery, in descending order of similarity."""

    query: Path
    hits: list[Hit]


def find_nearest(queries_QD: np.ndarray, gallery_ND: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the cosine similarities of the `top` gallery vectors that are most similar to each query.

    Rows of equal similarity keep the order of the gallery. The similarity to a zero vector is 0.

    Returns:
        Rows, int64 (Q, min(top, N)), and similarities, float32 (Q, min(top, N)), in descending order of similarity.
    """
    gallery_ND = _normalize_rows(gallery_ND)
    rows, similarities = [], []
    for query_D in _normalize_rows(queries_QD):  # one query at a time, to hold only N similarities in memory
        similarity_N = np.clip(gallery_ND @ query_D, -1, 1)
        order = np.argsort(-similarity_N, kind="stable")[:top]
        rows.append(order)
        similarities.append(similarity_N[order])
    return np.stack(rows), np.stack(similarities)


def _normalize_rows(vectors_ND: np.ndarray) -> np.ndarray:
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(norms_N1 > 0, norms_N1, 1)
