"""Metrics of a classifier's predictions: overall accuracy, accuracy on the best and worst class, and calibration.

Overall accuracy does not show how poorly a classifier performs on its worst class. The paper itself says that its
method does not guarantee unbiased predictions.
"""

import numpy as np

_MAX_CLASSES_WITHOUT_TOP_5 = 10
NUM_BINS = 15  # confidence bins for the calibration error, as in Guo et al. 2017


def compute_classification_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the overall accuracy, the mean, worst and best class accuracy, the class gap and the calibration error.

    Classes without test images are ignored. If there are more than 10 classes, the result also includes the fraction of
    images whose class is among the five most probable classes; ties are broken in favor of the first class.

    Args:
        labels: true classes, int64 (N,).
        probabilities: predicted probabilities, float (N, C). The predicted class is the one with the highest
            probability, or the first such class in case of a tie.

    Returns:
        The metrics by name, each in [0, 1].
    """
    is_correct = probabilities.argmax(1) == labels
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    accuracies = np.bincount(labels, is_correct, probabilities.shape[1])[counts > 0] / counts[counts > 0]
    top_5 = {}
    if probabilities.shape[1] > _MAX_CLASSES_WITHOUT_TOP_5:
        highest = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        top_5 = {"top_5_accuracy": float((highest == labels[:, None]).any(1).mean())}
    return {
        "accuracy": float(is_correct.mean()),
        "balanced_accuracy": float(accuracies.mean()),
        **top_5,
        "worst_class_accuracy": float(accuracies.min()),
        "best_class_accuracy": float(accuracies.max()),
        "class_gap": float(accuracies.max() - accuracies.min()),
        "calibration_error": expected_calibration_error(is_correct, probabilities.max(1)),
    }


def expected_calibration_error(is_correct: np.ndarray, confidence: np.ndarray) -> float:
    """Return the mean of |accuracy − mean confidence| over the confidence bins, weighted by their number of images.

    See Guo et al. 2017, *On Calibration of Modern Neural Networks*, equation 3.

    Args:
        is_correct: whether each prediction is correct, bool (N,).
        confidence: probability of each predicted class, float (N,) in [0, 1].
    """
    bins = confidence_bin_indices(confidence)
    gaps = np.bincount(bins, is_correct.astype(np.float64) - confidence, NUM_BINS)
    return float(np.abs(gaps).sum() / len(is_correct))


def confidence_bin_indices(confidence: np.ndarray) -> np.ndarray:
    """Return the confidence bin index of each prediction, int64 (N,).

    The bin with index i, from 0 to 14, is the interval (i / 15, (i + 1) / 15]; the first bin includes 0.
    """
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
