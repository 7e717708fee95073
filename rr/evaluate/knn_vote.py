"""The weighted vote of nearest neighbors."""

import numpy as np


def knn_vote(
    similarity: np.ndarray, labels: np.ndarray, num_classes: int, num_neighbors: int, temperature: float
) -> np.ndarray:
    """Return each class's fraction of the votes, float64 (Q, num_classes).

    The `num_neighbors` most similar images vote for their class, each with weight exp(similarity / temperature).

    Args:
        similarity: cosine similarity of Q queries to N labeled images, float (Q, N).
        labels: classes of the N images, int64 (N,).
        num_classes: number of classes.
        num_neighbors: number of images that vote, at most N.
        temperature: scale of the similarities. A lower temperature gives more weight to the nearest neighbors.
    """
    num_queries, num_images = similarity.shape
    nearest = np.argpartition(similarity, num_images - num_neighbors, axis=1)[:, num_images - num_neighbors :]
    cosine = np.take_along_axis(similarity, nearest, 1).astype(np.float64)
    # The order of summation must not depend on the order in which `argpartition` returns the neighbors.
    order = np.argsort(-cosine, axis=1, kind="stable")
    nearest, cosine = np.take_along_axis(nearest, order, 1), np.take_along_axis(cosine, order, 1)
    # Subtracting the largest similarity prevents overflow. The largest vote for a query is then 1, so the sum is
    # positive.
    weights = np.exp((cosine - cosine[:, :1]) / temperature)
    cells = np.arange(num_queries)[:, None] * num_classes + labels[nearest]  # positions in the flattened table of votes
    votes = np.bincount(cells.ravel(), weights.ravel(), num_queries * num_classes).reshape(num_queries, num_classes)
    return votes / votes.sum(1, keepdims=True)
