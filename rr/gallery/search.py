"""The nearest vectors by cosine similarity: one matrix product, exact."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.gallery.pictures import Picture


def nearest(queries_QD: np.ndarray, gallery_ND: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the gallery, int64 (Q, min(top, N)), and similarities, float32 alike; the nearest first.

    Of equal ones the earlier in the gallery is first. A vector of zeros has the similarity 0 to all.
    """
    gallery_ND = _unit(gallery_ND)
    places, similarities = [], []
    for query_D in _unit(queries_QD):  # one at a time: a row of N similarities, and not Q of them
        similarity_N = np.clip(gallery_ND @ query_D, -1, 1)
        order = np.argsort(-similarity_N, kind="stable")[:top]
        places.append(order)
        similarities.append(similarity_N[order])
    return np.stack(places), np.stack(similarities)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1)


class Hit(NamedTuple):
    """A picture of the gallery: its rank from 1, and its similarity to the query."""

    rank: int
    similarity: float
    picture: Picture


class Answer(NamedTuple):
    """A picture that was asked for, and its nearest, the nearest first."""

    query: Path
    hits: list[Hit]
