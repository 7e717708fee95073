"""Cosine similarities of features: normalization, and an exact search for the most similar vectors."""

import numpy as np

_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) scaled to a Euclidean norm of 1. All-zero rows stay zero."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _MIN_NORM)


def nearest_other_images(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Return the rows of the other images with the highest cosine similarity to each image, highest first.

    Args:
        features: float32 (N, D).
        num_neighbors: number of neighbors, K; reduced to N - 1 if there are fewer other images.

    Returns:
        int64 (N, K).
    """
    num_neighbors = min(num_neighbors, len(features) - 1)
    # If an image has copies, they may precede the image itself.
    rows, _ = find_nearest(features, features, num_neighbors + 1)
    return np.stack([nearest[nearest != row][:num_neighbors] for row, nearest in enumerate(rows)])


def find_nearest(queries_QD: np.ndarray, gallery_ND: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the cosine similarities of the `top` gallery vectors that are most similar to each query.

    Rows with equal similarity keep the gallery's order. The similarity to a zero vector is 0.

    Returns:
        Rows, int64 (Q, min(top, N)), and similarities, float32 (Q, min(top, N)), in descending order of similarity.
    """
    norm_N = _norms_or_one(gallery_ND)
    rows, similarities = [], []
    for query_D in queries_QD / _norms_or_one(queries_QD)[:, None]:  # one at a time, to hold only N similarities
        distance_N = -np.clip(gallery_ND @ query_D / norm_N, -1, 1)
        # Sorting only the rows up to the last distance in the result takes a tenth of the time of a full sort.
        last = np.partition(distance_N, top - 1)[top - 1] if top < len(distance_N) else 1
        candidates = np.flatnonzero(~(distance_N > last))  # includes NaN, which sorts to the end
        order = candidates[np.argsort(distance_N[candidates], kind="stable")][:top]
        rows.append(order)
        similarities.append(-distance_N[order])
    return np.stack(rows), np.stack(similarities)


def cosine_similarities(first_PD: np.ndarray, second_PD: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each pair of rows, float32 (P,)."""
    products = np.einsum("ij,ij->i", first_PD, second_PD)
    return np.asarray(np.clip(products / _norms_or_one(first_PD) / _norms_or_one(second_PD), -1, 1))


def _norms_or_one(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the norm of each row, or 1 for all-zero rows."""
    norm_N = np.sqrt(np.einsum("ij,ij->i", vectors_ND, vectors_ND))  # unlike np.linalg.norm, this makes no copy
    return np.where(norm_N > 0, norm_N, 1)
