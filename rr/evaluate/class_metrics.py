"""What a classifier does to each class, and whether its confidence can be believed.

A mean over classes hides the class that fares worst; the paper itself says that its method does not guarantee unbiased
predictions.
"""

import numpy as np

BINS = 15  # of confidence, as Guo et al. 2017


def audit(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, of the best and of the worst class too, their gap, and the expected calibration error.

    Labels int64 (N,), probabilities float (N, C), whose largest is the prediction (the first of equals). Classes
    without a test picture have no accuracy. All values are shares in [0, 1].
    """
    right = probabilities.argmax(1) == labels
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    shares = np.bincount(labels, right, probabilities.shape[1])[counts > 0] / counts[counts > 0]
    return {
        "accuracy": float(right.mean()),
        "worst_class_accuracy": float(shares.min()),
        "best_class_accuracy": float(shares.max()),
        "class_gap": float(shares.max() - shares.min()),
        "calibration_error": calibration_error(right, probabilities.max(1)),
    }


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error: the mean over pictures of |accuracy − confidence| of their bin of confidence.

    `right` bool (N,), `confidence` float (N,) in [0, 1]; bin b of 15 is ((b − 1) / 15, b / 15], the first with 0 (Guo
    et al. 2017, *On Calibration of Modern Neural Networks*, equation 3).
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right.astype(np.float64) - confidence, BINS)
    return float(np.abs(gaps).sum() / len(right))
