"""Weighted k-nearest-neighbour classification: no training, so it shows the representation itself."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.errors import UserError
from rr.params import Knn

_QUERIES = 512


def run(
    settings: Knn, train: tuple[Tensor, np.ndarray], test: tuple[Tensor, np.ndarray], classes: int
) -> tuple[dict[str, float], np.ndarray]:
    """Vote of the `neighbours` nearest training pictures by cosine, each with weight exp(cosine / temperature).

    The form of Wu et al. 2018 (*Unsupervised Feature Learning via Non-Parametric Instance Discrimination*), as the
    field uses it. Features float32 (N, D), labels int64 (N,). Raises UserError for fewer pictures than neighbours.
    """
    if settings.neighbours > len(train[1]):
        raise UserError(
            f"knn with {settings.neighbours} neighbours needs as many training pictures; there are {len(train[1])}"
        )
    gallery = F.normalize(train[0])
    labels = torch.from_numpy(train[1]).to(gallery.device)
    guesses = []
    for queries in F.normalize(test[0]).split(_QUERIES):
        similarity, nearest = (queries @ gallery.T).topk(settings.neighbours)
        votes = torch.zeros(len(queries), classes, device=gallery.device, dtype=torch.float64)
        # Shifted by the largest possible cosine, so that no temperature overflows.
        votes.scatter_add_(1, labels[nearest], ((similarity.double() - 1) / settings.temperature).exp())
        guesses.append(votes.argmax(1))
    predictions = torch.cat(guesses).cpu().numpy()
    return {"accuracy": float(np.mean(predictions == test[1]))}, predictions
