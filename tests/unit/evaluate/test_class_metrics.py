"""Per-class figures and calibration, by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from rr.evaluate.class_metrics import audit, calibration_error


def one_hot(predictions: list[int], confidence: list[float], classes: int) -> np.ndarray:
    """Probabilities whose largest is `confidence` at the prediction; the rest is spread evenly."""
    found = np.empty((len(predictions), classes))
    for row, (prediction, value) in enumerate(zip(predictions, confidence, strict=True)):
        found[row] = (1 - value) / (classes - 1)
        found[row, prediction] = value
    return found


def test_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    metrics = audit(labels, one_hot([0, 0, 0, 1, 1, 2, 0], [0.9] * 7, 4))
    assert metrics["accuracy"] == pytest.approx(4 / 7)
    assert metrics["best_class_accuracy"] == 0.75
    assert metrics["worst_class_accuracy"] == 0  # class 3 has no picture and no say
    assert metrics["class_gap"] == 0.75
    assert metrics["calibration_error"] == pytest.approx(0.9 - 4 / 7)


def test_calibration_by_hand() -> None:
    # Two bins: (4/15, 5/15] with confidence 0.3 and 1 of 2 right, (12/15, 13/15] with 0.85 and 1 of 2 right.
    found = calibration_error(np.array([True, False, True, False]), np.array([0.3, 0.3, 0.85, 0.85]))
    assert found == pytest.approx((2 * abs(0.5 - 0.3) + 2 * abs(0.5 - 0.85)) / 4)
    # The upper edge belongs to its bin, and both ends of the scale to one.
    assert calibration_error(np.array([True, True]), np.array([1.0, 14 / 15])) == pytest.approx(1 / 30)
    assert calibration_error(np.array([False]), np.array([0.0])) == 0


@given(st.integers(1, 200), st.integers(2, 8), st.integers(0, 2**31))
def test_against_independent_forms(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count)
    labels = rng.integers(0, classes, count)
    metrics = audit(labels, probabilities)
    guesses = probabilities.argmax(1)
    each = recall_score(labels, guesses, labels=np.unique(labels), average=None, zero_division=0)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    assert (metrics["worst_class_accuracy"], metrics["best_class_accuracy"]) == pytest.approx((each.min(), each.max()))
    expected = 0.0
    confidence = probabilities.max(1)
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs((guesses == labels)[inside].mean() - confidence[inside].mean())
    assert metrics["calibration_error"] == pytest.approx(expected, abs=1e-12)
