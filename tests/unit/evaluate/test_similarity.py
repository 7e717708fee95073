"""Test the search for the most similar features."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rr.evaluate.similarity import find_nearest, nearest_other_images


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), num_queries=st.integers(1, 4), size=st.integers(1, 30), top=st.integers(1, 40))
def test_find_nearest_matches_scikit_learn(seed: int, num_queries: int, size: int, top: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    gallery, queries = (rng.integers(-3, 4, (n, 3)).astype(np.float32) for n in (size, num_queries))  # ties and zeros
    positions, similarities = find_nearest(queries, gallery, top)
    fitted = NearestNeighbors(n_neighbors=min(top, size), metric="cosine", algorithm="brute").fit(gallery)
    assert np.allclose(similarities, 1 - fitted.kneighbors(queries)[0], atol=1e-6)
    normalized = np.nan_to_num(gallery / np.linalg.norm(gallery, axis=1, keepdims=True).clip(1e-9))
    for row, query, values in zip(positions, queries, similarities, strict=True):
        assert len(set(row)) == len(row)
        assert np.allclose(normalized[row] @ query / max(np.linalg.norm(query), 1e-9), values, atol=1e-6)


def test_equal_similarities_keep_gallery_order() -> None:
    gallery = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    for top in (1, 2, 3, 4, 9):
        positions, _ = find_nearest(np.array([[2, 0]], np.float32), gallery, top)
        assert positions.tolist() == [[1, 2, 3, 0][:top]]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12), count=st.integers(1, 15))
def test_neighbors_are_the_most_similar_other_images(seed: int, size: int, count: int) -> None:
    features = np.random.default_rng(seed).integers(-1, 2, (size, 2)).astype(np.float32)  # copies and zeros
    neighbors = nearest_other_images(features, count)
    assert neighbors.shape == (size, min(count, size - 1))
    norms = np.linalg.norm(features, axis=1)
    cosines = features @ features.T / np.outer(norms, norms).clip(1e-9)
    for row, chosen in enumerate(neighbors):
        others = np.delete(cosines[row], row)
        assert row not in chosen
        assert len(set(chosen)) == len(chosen)
        assert np.allclose(cosines[row, chosen], np.sort(others)[::-1][: len(chosen)], atol=1e-6)
