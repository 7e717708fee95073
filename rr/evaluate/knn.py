"""Weighted k-nearest-neighbor classification, which needs no training."""

import numpy as np

from rr.evaluate.classification import make_classification_result
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.result import ProtocolResult
from rr.evaluate.similarity import normalize_rows
from rr.params import KnnConfig

_BATCH_SIZE = 128  # number of test images whose similarities are computed together; larger arrays cause page faults


def evaluate(inputs: EvaluationInputs, config: KnnConfig) -> ProtocolResult:
    """Classify each test image by a vote among its most similar training images."""
    train = inputs.train
    probabilities = predict_probabilities(
        train.features, train.labels, inputs.test.features, inputs.num_classes, config
    )
    return make_classification_result(probabilities, inputs, {"train_images": len(train)}, config)


def predict_probabilities(
    train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray, num_classes: int, config: KnnConfig
) -> np.ndarray:
    """Return each class's fraction of the votes for each test image, float64 (N_test, num_classes).

    The neighbors are the training images with the highest cosine similarity. Each votes with weight
    exp(similarity / temperature), following Wu et al. 2018, *Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination*.

    Args:
        train_features: float32 (N, D).
        train_labels: int64 (N,).
        test_features: float32 (N_test, D).
        num_classes: number of classes.
        config: settings, which include the number of neighbors and the temperature.
    """
    gallery, queries = normalize_rows(train_features), normalize_rows(test_features)
    probabilities = [
        knn_vote(
            queries[start : start + _BATCH_SIZE] @ gallery.T, train_labels, num_classes, config.neighbors,
            config.temperature,
        )
        for start in range(0, len(queries), _BATCH_SIZE)
    ]  # fmt: skip
    return np.concatenate(probabilities)
