"""Tests of the percentiles of scores among those of random pairs."""

import numpy as np
import pytest

from rr.evaluate.similarity import cosine_similarities
from rr.gallery.random_pairs import MAX_RANDOM_PAIRS, percentiles, sample_pairs


def test_percentiles_of_scores_by_hand() -> None:
    first, second = sample_pairs(3)
    assert [*zip(first, second, strict=True)] == [(0, 1), (0, 2), (1, 2)]
    vectors = np.array([[1, 0], [3, 4], [0, 0]], np.float32)
    reference = cosine_similarities(vectors[first], vectors[second])
    assert reference.tolist() == pytest.approx([0.6, 0, 0])
    scores = np.array([-1, 0, 0.5, 0.7])
    assert np.isnan(percentiles(scores, np.tile(reference, 3))).all()
    assert percentiles(scores, np.tile(reference, 4)).tolist() == pytest.approx([0, 0, 200 / 3, 100])
    first, second = sample_pairs(1000)
    assert len(first) == MAX_RANDOM_PAIRS
    assert (first != second).all()
    assert np.bincount(second, minlength=1000).std() == pytest.approx(10**0.5, rel=0.2)  # uniform
