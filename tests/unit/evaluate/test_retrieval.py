"""Rankings by hand, with ties, and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from rr.data.beton import Beton, write
from rr.errors import UserError
from rr.evaluate import retrieval
from rr.params import Retrieval


def split(path, labels: list[int], first_index: int = 0) -> Beton:
    """A beton whose pictures have the brightness of their position."""
    images = (np.full((8, 8, 3), position % 256, np.uint8) for position in range(len(labels)))
    write(path, images, np.array(labels), np.arange(first_index, first_index + len(labels)))
    return Beton(path, threads=1)


def on_a_line(places: list[float]) -> torch.Tensor:
    return torch.tensor(places)[:, None]


@pytest.fixture
def by_hand(tmp_path) -> tuple[tuple[torch.Tensor, Beton], tuple[torch.Tensor, Beton]]:
    """Query 0 (class 0) at 0 ranks 1, 2, 3, 4 → right, wrong, right, wrong; query 1 (class 1) at 5: 4, 3, 2, 1."""
    train = split(tmp_path / "train", [0, 1, 0, 1], first_index=100)
    test = split(tmp_path / "test", [0, 1])
    return (on_a_line([1.0, 2.0, 3.0, 4.0]), train), (on_a_line([0.0, 5.0]), test)


def test_a_ranking_by_hand(by_hand) -> None:
    settings = Retrieval(kind="retrieval", distance="euclidean", depths=[1, 2, 3])
    found = retrieval.run(settings, *by_hand)
    assert found.metrics == pytest.approx(
        {
            "mean_average_precision": (1 / 1 + 2 / 3) / 2,
            "precision_at_1": 1.0, "recall_at_1": 0.5, "hit_rate_at_1": 1.0,
            "precision_at_2": 0.5, "recall_at_2": 0.5, "hit_rate_at_2": 1.0,
            "precision_at_3": 2 / 3, "recall_at_3": 1.0, "hit_rate_at_3": 1.0,
            "train_images": 4,
        }
    )  # fmt: skip
    assert [list(row) for row in found.columns["neighbours"]] == [[100, 101, 102], [103, 102, 101]]
    assert [list(row) for row in found.columns["neighbour_labels"]] == [[0, 1, 0], [1, 0, 1]]
    assert np.allclose(found.columns["similarities"][0], [-1, -4, -9])


def test_the_picture_frames_right_and_wrong_neighbours(by_hand) -> None:
    settings = Retrieval(kind="retrieval", distance="euclidean", depths=[1])
    sheet = retrieval.run(settings, *by_hand).examples
    tile, gap = 8 + 4, 2
    assert sheet.shape == (2 * (tile + gap) + gap, 5 * (tile + gap) + gap, 3)
    frames = [sheet[gap, gap + column * (tile + gap)] for column in range(5)]
    assert [tuple(frame) for frame in frames] == [
        retrieval._QUERY, retrieval._RIGHT, retrieval._WRONG, retrieval._RIGHT, retrieval._WRONG,
    ]  # fmt: skip
    pictures = [sheet[gap + 5, gap + 5 + column * (tile + gap), 0] for column in range(5)]
    assert pictures == [0, 0, 1, 2, 3]  # the query, then the gallery's pictures by their brightness


def test_ties_keep_the_order_of_the_file_and_count_together() -> None:
    gallery, queries = on_a_line([1.0, 1.0, 1.0, 2.0]), on_a_line([0.0])
    labels = np.array([1, 0, 1, 0])
    nearest, _, precision = retrieval.rank(gallery, labels, queries, np.array([0]), 2, euclidean=True)
    assert nearest.tolist() == [[0, 1]]
    # The tie of three holds one right picture: 1/3; the last place makes 2/4.
    assert precision[0] == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_against_scikit_learn(euclidean: bool, steps: int) -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (rng.normal(size=(count, 6)).astype(np.float32) for count in (300, 600))
    if steps:  # few different values: many exact ties
        gallery, queries = (np.rint(a[:, :1] * steps).astype(np.float32) for a in (gallery, queries))
        gallery, queries = (np.where(a == 0, 1, a) for a in (gallery, queries))
    labels, asked = rng.integers(0, 7, 300), rng.integers(0, 7, 600)
    nearest, nearness, precision = retrieval.rank(
        torch.from_numpy(gallery), labels, torch.from_numpy(queries), asked, 10, euclidean=euclidean
    )
    if euclidean:
        scores = -((queries[:, None] - gallery[None]) ** 2).sum(2)
    else:
        unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, gallery)]
        scores = unit[0] @ unit[1].T
    expected = [average_precision_score(labels == label, row) for label, row in zip(asked, scores, strict=True)]
    assert np.allclose(precision, expected, atol=1e-4)
    metric = "sqeuclidean" if euclidean else "cosine"
    distances, oracle = (
        NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(gallery).kneighbors(queries)
    )
    assert np.allclose(nearness, -distances if euclidean else 1 - distances, atol=1e-4)
    if not steps:
        assert np.array_equal(nearest, oracle)


def test_a_depth_beyond_the_gallery_is_refused(by_hand) -> None:
    settings = Retrieval(kind="retrieval", distance="cosine", depths=[1, 5])
    with pytest.raises(UserError, match="depth 5 needs as many training pictures; there are 4"):
        retrieval.run(settings, *by_hand)
