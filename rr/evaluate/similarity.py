"""The normalization of features for cosine similarities."""

import numpy as np

_MIN_NORM = 1e-12  # as in torch.nn.functional.normalize


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) scaled to a Euclidean norm of 1. Rows of zeros stay zero."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _MIN_NORM)
