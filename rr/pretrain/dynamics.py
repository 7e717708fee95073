"""Learning dynamics: measurements of a method between epochs, which do not affect training."""

import math
import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.data.beton import Beton
from rr.data.preprocessing import Preprocessing
from rr.evaluate.feature_extraction import extract_features
from rr.evaluate.knn_vote import knn_vote
from rr.evaluate.representation_metrics import effective_rank, rankme
from rr.methods.base import Method
from rr.params import DynamicsConfig

NUM_NEIGHBORS, TEMPERATURE = 20, 0.1
COLUMNS = ("knn_accuracy", "effective_rank", "rankme", "gradient_norm_backbone", "gradient_norm_head")


class DynamicsMonitor:
    """Measure a method between epochs, always on the same images.

    Up to `config.images` labeled images are chosen at random. If the split has at most 20 labeled images, all of its
    images are candidates, and the kNN accuracy is not measured. The labels are used only for this accuracy.

    Args:
        config: how often to measure, and the maximum number of images.
        data: the split that the method is trained on.
        preprocessing: the dataset's preprocessing; its mean and standard deviation are used for normalization.
        seed: seed for choosing the images.
        device: torch device of the method.
    """

    def __init__(
        self, config: DynamicsConfig, data: Beton, preprocessing: Preprocessing, seed: int, device: str
    ) -> None:
        self.every_n_epochs, self.data, self.device = config.every_n_epochs, data, device
        self.preprocessing = preprocessing
        labeled = np.flatnonzero(data.labels >= 0)
        self.has_labels = len(labeled) > NUM_NEIGHBORS
        candidates = labeled if self.has_labels else np.arange(len(data))
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(candidates))
        self.rows = np.sort(candidates[order[: config.images]])

    def is_due(self, num_epochs: int) -> bool:
        """Return whether a measurement is due after `num_epochs` completed epochs."""
        return self.every_n_epochs > 0 and num_epochs % self.every_n_epochs == 0

    def measure(self, method: Method) -> dict[str, float]:
        """Return a value for each of `COLUMNS`. A value that is undefined or cannot be computed is NaN.

        An error during the measurement is printed and does not stop training.

        - `knn_accuracy`: leave-one-out accuracy of the kNN classifier (20 neighbors by cosine similarity, temperature
          0.1).
        - `effective_rank`, `rankme`: the effective rank of the centered features, and that of the features themselves.
          Only the second one becomes 1 if all features become equal up to small noise.
        - `gradient_norm_backbone`, `gradient_norm_head`: Euclidean norms of the gradients of the last step, for the
          parameters of the backbone and for all other parameters.
        """
        values = dict.fromkeys(COLUMNS, math.nan)
        was_training = method.training
        try:
            values["gradient_norm_backbone"], values["gradient_norm_head"] = gradient_norms(method)
            method.eval()
            features = extract_features(method.backbone, self.data, self.preprocessing, self.device, self.rows)
            if features.isfinite().all():
                if self.has_labels:
                    values["knn_accuracy"] = leave_one_out_knn_accuracy(features, self.data.labels[self.rows])
                values["effective_rank"], values["rankme"] = effective_rank(features), rankme(features)
        except Exception as error:  # such as insufficient memory, or a matrix decomposition that does not converge
            missing = ", ".join(name for name, value in values.items() if math.isnan(value))
            print(f"pretrain: these learning dynamics could not be measured: {missing} ({error})", file=sys.stderr)
        finally:
            method.train(was_training)
        return values


def leave_one_out_knn_accuracy(features: Tensor, labels: np.ndarray) -> float:
    """Classify each image by its nearest neighbors among all other images, and return the accuracy.

    Args:
        features: float (N, D), N above 20.
        labels: int64 (N,).
    """
    directions = F.normalize(features)
    cosines = (directions @ directions.T).fill_diagonal_(-2)  # below any cosine, so no image is its own neighbor
    scores = knn_vote(cosines.cpu().numpy(), labels, int(labels.max()) + 1, NUM_NEIGHBORS, TEMPERATURE)
    return float((scores.argmax(1) == labels).mean())


def gradient_norms(method: Method) -> tuple[float, float]:
    """Return the Euclidean norms of the gradients of the backbone's parameters and of all other parameters.

    A norm is NaN if none of its parameters has a gradient.
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
