"""Weighted k-nearest-neighbor classification, which needs no training."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.evaluate.classification import make_classification_result
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.result import ProtocolResult
from rr.params import KnnConfig

_BATCH_SIZE = 512  # test images whose similarities are computed together


def evaluate(inputs: EvaluationInputs, config: KnnConfig) -> ProtocolResult:
    """Classify each test image by the vote of its most similar training images.

    Raises:
        UserError: if the features are not finite.
    """
    probabilities = predict_probabilities(
        inputs.train_features, inputs.train.labels, inputs.test_features, inputs.num_classes, config
    )
    return make_classification_result(probabilities, inputs.test, {"train_images": len(inputs.train)}, config)


def predict_probabilities(
    train_features: Tensor, train_labels: np.ndarray, test_features: Tensor, num_classes: int, config: KnnConfig
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
        config: settings with the number of neighbors and the temperature.
    """
    gallery = F.normalize(train_features)
    labels = torch.from_numpy(train_labels).to(gallery.device)
    probabilities = [
        knn_vote(queries @ gallery.T, labels, num_classes, config.neighbors, config.temperature)
        for queries in F.normalize(test_features).split(_BATCH_SIZE)
    ]
    return torch.cat(probabilities).cpu().numpy()
