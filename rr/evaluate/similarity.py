"""Cosine similarities of features."""

import numpy as np

_BATCH_SIZE = 256  # rows whose similarities are computed together
_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) scaled to a Euclidean norm of 1. Rows of zeros stay zero."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _MIN_NORM)


def nearest_neighbors(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Return the rows of the other images with the highest cosine similarity to each image, highest first.

    Args:
        features: float32 (N, D).
        num_neighbors: number of neighbors, K; reduced to N - 1 if there are fewer other images.

    Returns:
        int64 (N, K).
    """
    num_neighbors = min(num_neighbors, len(features) - 1)
    normalized = normalize_rows(features)
    batches = [np.empty((0, num_neighbors), np.int64)]
    for start in range(0, len(features), _BATCH_SIZE):
        similarity = normalized[start : start + _BATCH_SIZE] @ normalized.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf  # an image is not its own neighbor
        batches.append(np.argsort(-similarity, axis=1, kind="stable")[:, :num_neighbors])
    return np.concatenate(batches)
