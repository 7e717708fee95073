"""Learning dynamics: measurements of a method between epochs, which do not affect the training."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.data.beton import Beton
from rr.evaluate.features import extract_features
from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.representation_metrics import effective_rank
from rr.methods.base import Method
from rr.params import DatasetConfig, DynamicsConfig

NUM_NEIGHBORS, TEMPERATURE = 20, 0.1
COLUMNS = ("knn_accuracy", "effective_rank", "gradient_norm_backbone", "gradient_norm_head")


class DynamicsMonitor:
    """Measure a method between epochs, always on the same images.

    `data` is the training split of the dataset (rr/stages.py passes its beton). Up to `config.images` of its labeled
    images are chosen at random with `seed`. If it has at most 20 labeled images, all images are candidates, and the kNN
    accuracy is not measured. The labels are used only for this measurement.
    """

    def __init__(self, config: DynamicsConfig, data: Beton, dataset: DatasetConfig, seed: int, device: str) -> None:
        self.every_n_epochs, self.data, self.dataset, self.device = config.every_n_epochs, data, dataset, device
        labeled = np.flatnonzero(data.labels >= 0)
        self.has_labels = len(labeled) > NUM_NEIGHBORS
        candidates = labeled if self.has_labels else np.arange(len(data))
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(candidates))
        self.rows = np.sort(candidates[order[: config.images]])

    def is_due(self, num_epochs: int) -> bool:
        """Return whether a measurement is due after `num_epochs` completed epochs."""
        return self.every_n_epochs > 0 and num_epochs % self.every_n_epochs == 0

    def measure(self, method: Method) -> dict[str, float]:
        """Return a value for each of `COLUMNS`, which is NaN if it is undefined. Restore the mode (train or eval).

        - `knn_accuracy`: leave-one-out accuracy of the kNN classifier (20 neighbors by cosine similarity, temperature
          0.1).
        - `effective_rank`: the effective rank of the features.
        - `gradient_norm_backbone`, `gradient_norm_head`: Euclidean norms of the gradients of the last step, for the
          parameters of the backbone and for all other parameters.
        """
        norms = gradient_norms(method)
        was_training = method.training
        method.eval()
        features = extract_features(method.backbone, self.data, self.dataset, self.device, self.rows)
        method.train(was_training)
        accuracy = math.nan
        if self.has_labels:
            accuracy = leave_one_out_knn_accuracy(
                features, torch.from_numpy(self.data.labels[self.rows]).to(features.device)
            )
        return dict(zip(COLUMNS, (accuracy, effective_rank(features), *norms), strict=True))


def leave_one_out_knn_accuracy(features: Tensor, labels: Tensor) -> float:
    """Classify each image by its nearest neighbors among all other images, and return the accuracy.

    Args:
        features: float (N, D), N above 20.
        labels: int64 (N,).
    """
    directions = F.normalize(features)
    cosines = (directions @ directions.T).fill_diagonal_(-2)  # below any cosine, so no image is its own neighbor
    scores = knn_vote(cosines, labels, int(labels.max()) + 1, NUM_NEIGHBORS, TEMPERATURE)
    return (scores.argmax(1) == labels).double().mean().item()


def gradient_norms(method: Method) -> tuple[float, float]:
    """Return the Euclidean norms of the gradients of the backbone and of all other parameters.

    A norm is NaN if none of the parameters has a gradient.
    """
    backbone_ids = {id(parameter) for parameter in method.backbone.parameters()}
    backbone: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in method.parameters():
        if parameter.grad is not None:
            (backbone if id(parameter) in backbone_ids else others).append(parameter.grad)
    return _total_norm(backbone), _total_norm(others)


def _total_norm(gradients: list[Tensor]) -> float:
    if not gradients:
        return math.nan
    return torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt().item()
