"""The weighted vote of nearest neighbors."""

import torch
from torch import Tensor


def knn_vote(similarity: Tensor, labels: Tensor, num_classes: int, num_neighbors: int, temperature: float) -> Tensor:
    """Return each class's fraction of the votes, float64 (Q, num_classes).

    The `num_neighbors` most similar images vote for their class, each with weight exp(similarity / temperature).

    Args:
        similarity: cosine similarity of Q queries to N labeled images, float (Q, N).
        labels: classes of the N images, int64 (N,).
        num_classes: number of classes.
        num_neighbors: number of images that vote, at most N.
        temperature: scale of the similarities. A lower temperature gives more weight to the nearest neighbors.
    """
    cosine, nearest = similarity.topk(num_neighbors)
    votes = torch.zeros(len(similarity), num_classes, device=similarity.device, dtype=torch.float64)
    # Subtracting the largest similarity prevents overflow. The largest vote of a query is then 1, so the sum is not 0.
    votes.scatter_add_(1, labels[nearest], ((cosine.double() - cosine[:, :1].double()) / temperature).exp())
    return votes / votes.sum(1, keepdim=True)
