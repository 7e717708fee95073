"""Test the weighted nearest-neighbor vote and feature normalization."""

import numpy as np
import pytest

from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.similarity import normalize_rows


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


def test_rows_are_normalized_and_zeros_stay_zero() -> None:
    rows = normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
    assert rows.dtype == np.float32
