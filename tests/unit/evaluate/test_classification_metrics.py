"""Compare class metrics and calibration with values computed by hand and with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, top_k_accuracy_score

from rr.evaluate.classification_metrics import compute_classification_metrics, expected_calibration_error


def make_probabilities(predictions: list[int], confidence: list[float], num_classes: int) -> np.ndarray:
    """Return probabilities: `confidence` for the predicted class, and the same value for all other classes."""
    probabilities = np.empty((len(predictions), num_classes))
    for row, (prediction, value) in enumerate(zip(predictions, confidence, strict=True)):
        probabilities[row] = (1 - value) / (num_classes - 1)
        probabilities[row, prediction] = value
    return probabilities


def test_classification_metrics_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    metrics = compute_classification_metrics(labels, make_probabilities([0, 0, 0, 1, 1, 2, 0], [0.9] * 7, 4))
    assert metrics["accuracy"] == pytest.approx(4 / 7)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert "top_5_accuracy" not in metrics  # with at most 10 classes
    assert metrics["best_class_accuracy"] == 0.75
    assert metrics["worst_class_accuracy"] == 0  # class 3 has no test image and is left out
    assert metrics["class_gap"] == 0.75
    assert metrics["calibration_error"] == pytest.approx(0.9 - 4 / 7)


@pytest.mark.parametrize(("labels", "top_1", "top_5"), [([0, 1], 0.5, 1), ([4, 5], 0, 0.5), ([5, 11], 0, 0)])
def test_equal_probabilities_favor_the_first_classes(labels: list[int], top_1: float, top_5: float) -> None:
    metrics = compute_classification_metrics(np.array(labels), np.full((2, 12), 1 / 12))
    assert (metrics["accuracy"], metrics["top_5_accuracy"]) == (top_1, top_5)


def test_calibration_error_by_hand() -> None:
    # Two bins: (4/15, 5/15] with confidence 0.3 and 1 of 2 correct, (12/15, 13/15] with 0.85 and 1 of 2 correct.
    error = expected_calibration_error(np.array([True, False, True, False]), np.array([0.3, 0.3, 0.85, 0.85]))
    assert error == pytest.approx((2 * abs(0.5 - 0.3) + 2 * abs(0.5 - 0.85)) / 4)
    # A bin contains its upper edge. The confidences 0 and 1 are valid.
    assert expected_calibration_error(np.array([True, True]), np.array([1.0, 14 / 15])) == pytest.approx(1 / 30)
    assert expected_calibration_error(np.array([False]), np.array([0.0])) == 0


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@given(st.integers(1, 200), st.integers(2, 20), st.integers(0, 2**31))
def test_classification_metrics_match_scikit_learn(count: int, num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(num_classes), count)
    labels = rng.integers(0, num_classes, count)
    metrics = compute_classification_metrics(labels, probabilities)
    predictions = probabilities.argmax(1)
    recalls = recall_score(labels, predictions, labels=np.unique(labels), average=None, zero_division=0)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    if num_classes > 10:
        expected_top_5 = top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(num_classes))
        assert metrics["top_5_accuracy"] == pytest.approx(expected_top_5)
    assert (metrics["worst_class_accuracy"], metrics["best_class_accuracy"]) == pytest.approx(
        (recalls.min(), recalls.max())
    )
    expected = 0.0
    confidence = probabilities.max(1)
    for low in range(15):
        in_bin = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if in_bin.any():
            expected += in_bin.mean() * abs((predictions == labels)[in_bin].mean() - confidence[in_bin].mean())
    assert metrics["calibration_error"] == pytest.approx(expected, abs=1e-12)
