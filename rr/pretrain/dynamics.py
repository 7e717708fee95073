"""Learning dynamics: what a backbone has become, measured between epochs without touching the training."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.data.beton import Beton
from rr.evaluate.features import extract
from rr.evaluate.knn import vote
from rr.evaluate.representation_metrics import effective_rank
from rr.methods.base import Method
from rr.params import Dataset, Dynamics

NEIGHBOURS, TEMPERATURE = 20, 0.1
COLUMNS = ("knn_accuracy", "effective_rank", "gradient_norm_backbone", "gradient_norm_head")


class Observer:
    """Measures a method in training on the same pictures of its training split each time.

    The pictures are up to `images` with a label, chosen by `seed` (any pictures, where none has a label). Labels serve
    the measurement alone.
    """

    def __init__(self, settings: Dynamics, data: Beton, dataset: Dataset, seed: int, device: str) -> None:
        self.every, self.data, self.dataset, self.device = settings.every, data, dataset, device
        known = np.flatnonzero(data.labels >= 0)
        self.labelled = len(known) > NEIGHBOURS
        pool = known if self.labelled else np.arange(len(data))
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(pool))
        self.rows = np.sort(pool[order[: settings.images]])

    def is_due(self, epoch: int) -> bool:
        """Whether the epoch that has ended, counted from 1, is one to measure."""
        return self.every > 0 and epoch % self.every == 0

    def measure(self, method: Method) -> dict[str, float]:
        """The values of `COLUMNS` now; NaN for what cannot be known. The method's mode is as before afterwards.

        `knn_accuracy`: share of the pictures that the 20 nearest of the others name rightly (cosine, temperature 0.1).
        `effective_rank` of their features. The norms are those of the last step's gradients (before the optimiser),
        of the backbone and of all else that is trained.
        """
        norms = gradient_norms(method)
        training = method.training
        method.eval()
        features = extract(method.backbone, self.data, self.dataset, self.device, self.rows)
        method.train(training)
        found = float("nan")
        if self.labelled:
            found = leave_one_out(features, torch.from_numpy(self.data.labels[self.rows]).to(features.device))
        return dict(zip(COLUMNS, (found, effective_rank(features), *norms), strict=True))


def leave_one_out(features: Tensor, labels: Tensor) -> float:
    """kNN accuracy of each picture among the others: features float (N, D), labels int64 (N,), N above 20."""
    directions = F.normalize(features)
    cosines = (directions @ directions.T).fill_diagonal_(-2)  # below every cosine: never its own neighbour
    shares = vote(cosines, labels, int(labels.max()) + 1, NEIGHBOURS, TEMPERATURE)
    return (shares.argmax(1) == labels).double().mean().item()


def gradient_norms(method: Method) -> tuple[float, float]:
    """Euclidean norm of all gradients of the backbone, and of all others; NaN where there is none."""
    own = {id(parameter) for parameter in method.backbone.parameters()}
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in method.parameters():
        if parameter.grad is not None:
            sides[id(parameter) not in own].append(parameter.grad)
    backbone, others = (
        torch.stack([gradient.double().square().sum() for gradient in side]).sum().sqrt().item()
        if side
        else float("nan")
        for side in sides
    )
    return backbone, others
