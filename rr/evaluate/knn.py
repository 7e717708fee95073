"""Weighted k-nearest-neighbour classification: no training, so it shows the representation itself."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.errors import UserError
from rr.params import Knn

_QUERIES = 512


def run(settings: Knn, train: tuple[Tensor, np.ndarray], test: tuple[Tensor, np.ndarray], classes: int) -> np.ndarray:
    """Vote of the `neighbours` nearest training pictures by cosine, each with weight exp(cosine / temperature).

    The form of Wu et al. 2018 (*Unsupervised Feature Learning via Non-Parametric Instance Discrimination*), as the
    field uses it. Features float32 (N, D), labels int64 (N,). Returns each class's share of the votes, float64
    (N_test, classes). Raises UserError for fewer pictures than neighbours.
    """
    if settings.neighbours > len(train[1]):
        raise UserError(
            f"knn with {settings.neighbours} neighbours needs as many training pictures; there are {len(train[1])}: "
            "lower neighbours of the protocol in params.yaml"
        )
    gallery = F.normalize(train[0])
    labels = torch.from_numpy(train[1]).to(gallery.device)
    shares = [
        vote(queries @ gallery.T, labels, classes, settings.neighbours, settings.temperature)
        for queries in F.normalize(test[0]).split(_QUERIES)
    ]
    return torch.cat(shares).cpu().numpy()


def vote(cosines: Tensor, labels: Tensor, classes: int, neighbours: int, temperature: float) -> Tensor:
    """Each class's share of the votes, float64 (Q, classes), for cosines float (Q, N) to N pictures of `labels`."""
    cosine, nearest = cosines.topk(neighbours)
    votes = torch.zeros(len(cosines), classes, device=cosines.device, dtype=torch.float64)
    # Shifted by the largest, so that no temperature overflows, nor leaves a query without a vote.
    votes.scatter_add_(1, labels[nearest], ((cosine.double() - cosine[:, :1].double()) / temperature).exp())
    return votes / votes.sum(1, keepdim=True)
