"""Test the weighted nearest-neighbor vote and feature normalization."""

import numpy as np
import pytest

from rr.evaluate.knn import predict_probabilities
from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.similarity import normalize_rows
from rr.params import KnnConfig


def test_votes_by_hand() -> None:
    similarity = np.array([[0.1, 0.9, 0.5, 0.7], [1.0, -1.0, 0.0, 0.0]], np.float32)
    votes = knn_vote(similarity, np.array([0, 1, 2, 1]), 3, 3, 0.5)
    near, middle, far = np.exp(np.array([0.0, -0.2, -0.4]) / 0.5)  # similarities 0.9, 0.7 and 0.5
    assert votes[0] == pytest.approx(np.array([0, near + middle, far]) / (near + middle + far))
    tied = np.exp(-1 / 0.5)  # both images with similarity 0
    assert votes[1] == pytest.approx(np.array([1, tied, tied]) / (1 + 2 * tied))
    assert votes.dtype == np.float64


def test_all_images_may_vote_and_tiny_temperatures_are_finite() -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (5, 8)).astype(np.float32)
    labels = np.arange(8) % 2
    for temperature in (1e-300, 1e-3, 1e9):
        votes = knn_vote(similarity, labels, 2, 8, temperature)
        assert np.isfinite(votes).all()
        assert votes.sum(1) == pytest.approx(np.ones(5))
    assert votes == pytest.approx(np.full((5, 2), 0.5))  # at a high temperature, all votes have the same weight


@pytest.mark.parametrize("num_neighbors", [2, 3, 4])
def test_tied_images_fill_the_remaining_votes(num_neighbors: int) -> None:
    """It is not specified which images with equal similarity vote, but their number and weight are specified."""
    similarity = np.full((1, 300), 0.4, np.float32)
    similarity[0, 150] = 0.5
    votes = knn_vote(similarity, np.arange(300), 300, num_neighbors, 0.1)[0]
    tied = np.exp(-0.1 / 0.1)
    total = 1 + (num_neighbors - 1) * tied
    assert votes[150] == pytest.approx(1 / total)
    others = np.delete(votes, 150)
    assert others[others > 0] == pytest.approx(np.full(num_neighbors - 1, tied / total))


@pytest.mark.parametrize("seed", range(3))
def test_classes_with_equal_votes_have_equal_probabilities(seed: int) -> None:
    """Classes 1 and 2 each have one neighbor at every similarity, so the sums of their votes must be exactly equal."""
    order = np.random.default_rng(seed).permutation(1000)
    cosine = np.append(np.repeat(np.linspace(0.9, 0.2, 200), 2), np.full(600, -0.5)).astype(np.float32)[order]
    labels = np.append(np.tile([1, 2], 200), np.zeros(600, np.int64))[order]
    config = KnnConfig(kind="knn", neighbors=400, temperature=0.07)
    assert knn_vote(cosine[None], labels, 3, config.neighbors, config.temperature).tolist() == [[0, 0.5, 0.5]]
    # The similarities of the images in this gallery to the query are those in `cosine`.
    gallery = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    probabilities = predict_probabilities(gallery, labels, np.array([[2, 0]], np.float32), 3, config)
    assert probabilities == pytest.approx(np.array([[0, 0.5, 0.5]]), abs=1e-4)


def test_rows_are_normalized_and_zeros_stay_zero() -> None:
    rows = normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
    assert rows.dtype == np.float32
