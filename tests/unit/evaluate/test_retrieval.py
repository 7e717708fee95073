"""Compare the retrieval protocol with rankings computed by hand, including ties, and with scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_inputs import make_inputs, replace_methods
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from rr.data.beton import write
from rr.data.feature_file import SplitFeatures
from rr.evaluate import retrieval
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.relation_head import NumpyRelationHead
from rr.params import DatasetConfig, RetrievalConfig, ShapesSource

DATASET = DatasetConfig(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0), image_size=8, mean=(0, 0, 0), std=(1, 1, 1)
)


def write_split(path: Path, features: list[float], labels: list[int], first_index: int = 0) -> SplitFeatures:
    """Write a beton in which each image's pixel values are its position, and return the features."""
    images = (np.full((8, 8, 3), position % 256, np.uint8) for position in range(len(labels)))
    split = SplitFeatures(one_dimensional(features), np.array(labels), first_index + np.arange(len(labels)))
    write(path, images, split.labels, split.index)
    return split


def one_dimensional(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.fixture
def inputs(tmp_path: Path) -> EvaluationInputs:
    """Four training images with features 1, 2, 3, 4 and two queries with features 0 and 5.

    The query at 0 (class 0) ranks the images 1, 2, 3, 4, of which 1 and 3 are relevant. The query at 5 (class 1) ranks
    them 4, 3, 2, 1, of which 4 and 2 are relevant.
    """
    betons = {split: tmp_path / split for split in ("train", "test")}
    train = write_split(betons["train"], [1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1], first_index=100)
    test = write_split(betons["test"], [0.0, 5.0], [0, 1])
    return make_inputs(train, test, betons, DATASET, ["a", "b"], threads=2, load_relation_head=lambda: None)


def test_metrics_by_hand(inputs: EvaluationInputs) -> None:
    config = RetrievalConfig(kind="retrieval", distance="euclidean", cutoffs=[1, 2, 3])
    result = retrieval.evaluate(inputs, config)
    assert result.metrics == pytest.approx(
        {
            "mean_average_precision": (1 / 1 + 2 / 3) / 2,
            "precision_at_1": 1.0, "recall_at_1": 0.5, "hit_rate_at_1": 1.0,
            "precision_at_2": 0.5, "recall_at_2": 0.5, "hit_rate_at_2": 1.0,
            "precision_at_3": 2 / 3, "recall_at_3": 1.0, "hit_rate_at_3": 1.0,
            "train_images": 4,
        }
    )  # fmt: skip
    assert [list(row) for row in result.columns["neighbors"]] == [[100, 101, 102], [103, 102, 101]]
    assert [list(row) for row in result.columns["neighbor_labels"]] == [[0, 1, 0], [1, 0, 1]]
    assert np.allclose(result.columns["similarities"][0], [-1, -4, -9])


@pytest.mark.parametrize("has_head", [False, True])
def test_one_training_image_per_class(tmp_path: Path, has_head: bool) -> None:
    """With one relevant image, precision and recall depend only on its rank. Class 2 has no test images."""
    betons = {split: tmp_path / split for split in ("train", "test")}
    train = write_split(betons["train"], [1.0, 2.0, 4.0], [0, 1, 2])
    test = write_split(betons["test"], [0.0, 0.0, 5.0], [0, 1, 1])  # the ranks of the relevant images are 1, 2 and 2
    # The logit of a pair is its larger feature, so for the queries at 0, the head ranks the largest image first.
    ones = np.ones((1, 1), np.float32)
    head = NumpyRelationHead("max", ones, np.zeros(1, np.float32), ones[0], 0.0) if has_head else None
    inputs = make_inputs(train, test, betons, DATASET, ["a", "b", "c"], load_relation_head=lambda: head)
    result = retrieval.evaluate(inputs, RetrievalConfig(kind="retrieval", distance="euclidean", cutoffs=[1, 2, 3]))
    expected = {
        "mean_average_precision": (1 + 1 / 2 + 1 / 2) / 3,
        "precision_at_1": 1 / 3, "recall_at_1": 1 / 3, "hit_rate_at_1": 1 / 3,
        "precision_at_2": 1 / 2, "recall_at_2": 1, "hit_rate_at_2": 1,
        "precision_at_3": 1 / 3, "recall_at_3": 1, "hit_rate_at_3": 1,
        "train_images": 3,
    }  # fmt: skip
    reranked = {  # for the query at 5, all logits are equal
        "reranked_mean_average_precision": (1 / 3 + 1 / 2 + 1 / 3) / 3, "reranked_precision_at_1": 0,
        "reranked_precision_at_2": 1 / 3, "reranked_precision_at_3": 1 / 3,
    }  # fmt: skip
    assert result.metrics == pytest.approx(expected | (reranked if has_head else {}))
    assert result.predictions is not None
    assert result.predictions.tolist() == [0, 0, 2]
    tile, gap = 8 + 4, 2
    assert result.examples.shape == (2 * (tile + gap) + gap, 4 * (tile + gap) + gap, 3)  # a row per test class


@pytest.mark.parametrize(("reranked", "order"), [(2, [1, 0, 2, 3]), (100, [3, 2, 1, 0])])
def test_head_reorders_the_nearest_images(
    inputs: EvaluationInputs, monkeypatch: pytest.MonkeyPatch, reranked: int, order: list[int]
) -> None:
    """A head whose logit is the larger feature reverses the ranking of the query at 0."""
    sizes = np.ones((1, 1), np.float32)
    head = NumpyRelationHead("max", sizes, np.zeros(1, np.float32), sizes[0], 0.0)
    replace_methods(inputs, load_relation_head=lambda: head)
    monkeypatch.setattr(retrieval, "_NUM_RERANKED", reranked)
    result = retrieval.evaluate(inputs, RetrievalConfig(kind="retrieval", distance="euclidean", cutoffs=[1, 3]))
    labels = inputs.train.labels[order]
    # All logits of the query at 5 are 5, so the reranked images share a rank: 1 of 2 or 2 of 4 are relevant.
    shared = 1 / 2 if reranked == 2 else 2 / 4
    expected = [average_precision_score(labels == 0, [4, 3, 2, 1]), (shared + (2 / 3 if reranked == 2 else 2 / 4)) / 2]
    assert result.columns["reranked_average_precision"] == pytest.approx(expected)
    assert result.metrics["reranked_mean_average_precision"] == pytest.approx(np.mean(expected))
    assert result.metrics["reranked_precision_at_1"] == ((labels[0] == 0) + 1) / 2
    assert result.metrics["reranked_precision_at_3"] == pytest.approx(((labels[:3] == 0).mean() + 2 / 3) / 2)
    assert result.metrics["mean_average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)  # without the head
    assert [list(row) for row in result.columns["neighbors"]] == [[100, 101, 102], [103, 102, 101]]


def test_reranking_keeps_the_order_of_equal_logits() -> None:
    ones = np.ones((1, 1), np.float32)
    head = NumpyRelationHead("max", ones, np.zeros(1, np.float32), ones[0], 0.0)
    gallery = (np.arange(500) % 2).astype(np.float32)[:, None]  # the logit of an image is its feature
    nearest = np.arange(500)[None]
    is_relevant = np.arange(500)[None] < 100
    order, precision = retrieval._rerank_nearest(
        head, gallery, np.zeros((1, 1), np.float32), nearest, is_relevant, threads=1
    )
    assert order.tolist() == [[*range(1, 500, 2), *range(0, 500, 2)]]
    assert precision.tolist() == [[100 / 500, 50 / 250] * 250]


@pytest.mark.parametrize("steps", [2, 1000])
def test_reranked_precisions_match_scikit_learn(steps: int) -> None:
    """The reranked images come first. Images with equal logits share a rank, and so do images with equal similarities.

    The latter also holds if only some of the images with the same similarity are reranked.
    """
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, steps, (count, 1)).astype(np.float32) for count in (60, 40))
    labels, query_labels = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    ones = np.ones((1, 1), np.float32)
    head = NumpyRelationHead("max", ones, np.zeros(1, np.float32), ones[0], 0.0)  # the logit is the larger feature
    ranking = retrieval.rank_gallery(train, labels, test, query_labels, 60, euclidean=True, threads=1)
    nearest = ranking.nearest
    is_relevant = labels[nearest] == query_labels[:, None]
    _, new = retrieval._rerank_nearest(head, train, test, nearest[:, :20], is_relevant[:, :20], threads=1)
    gain = ((new - ranking.precision[:, :20]) * is_relevant[:, :20]).sum(1) / is_relevant.sum(1)
    scores = ranking.similarity.astype(np.float64)
    scores[:, :20] = 1e4 + np.maximum(test, train[nearest[:, :20], 0])
    expected = [average_precision_score(*pair) for pair in zip(is_relevant, scores, strict=True)]
    assert np.allclose(ranking.average_precision + gain, expected)


def test_examples_frame_correct_and_wrong_neighbors(inputs: EvaluationInputs) -> None:
    config = RetrievalConfig(kind="retrieval", distance="euclidean", cutoffs=[1])
    grid = retrieval.evaluate(inputs, config).examples
    tile, gap = 8 + 4, 2
    assert grid.shape == (2 * (tile + gap) + gap, 5 * (tile + gap) + gap, 3)
    frames = [grid[gap, gap + column * (tile + gap)] for column in range(5)]
    assert [tuple(frame) for frame in frames] == [
        retrieval._QUERY_COLOR, retrieval._CORRECT_COLOR, retrieval._WRONG_COLOR, retrieval._CORRECT_COLOR,
        retrieval._WRONG_COLOR,
    ]  # fmt: skip
    pixels = [grid[gap + 5, gap + 5 + column * (tile + gap), 0] for column in range(5)]
    assert pixels == [0, 0, 1, 2, 3]  # the query, then the training images


def test_ties_are_ranked_in_file_order_and_share_a_rank() -> None:
    gallery, queries = one_dimensional([1.0, 1.0, 1.0, 2.0]), one_dimensional([0.0])
    labels = np.array([1, 0, 1, 0])
    ranking = retrieval.rank_gallery(gallery, labels, queries, np.array([0]), 2, euclidean=True, threads=1)
    assert ranking.nearest.tolist() == [[0, 1]]
    # One of the three tied images is relevant: 1/3. At the last rank, two of four are relevant: 2/4.
    assert ranking.average_precision[0] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert ranking.precision.tolist() == [[1 / 3, 1 / 3]]


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_ranking_matches_scikit_learn(euclidean: bool, steps: int) -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (rng.normal(size=(count, 6)).astype(np.float32) for count in (300, 600))
    if steps:  # few distinct values cause many exact ties
        gallery, queries = (np.rint(a[:, :1] * steps).astype(np.float32) for a in (gallery, queries))
        gallery, queries = (np.where(a == 0, 1, a) for a in (gallery, queries))
    labels, query_labels = rng.integers(0, 7, 300), rng.integers(0, 7, 600)
    ranking = retrieval.rank_gallery(gallery, labels, queries, query_labels, 10, euclidean=euclidean, threads=2)
    if euclidean:
        scores = -((queries[:, None] - gallery[None]) ** 2).sum(2)
    else:
        normalized = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, gallery)]
        scores = normalized[0] @ normalized[1].T
    expected = [average_precision_score(labels == label, row) for label, row in zip(query_labels, scores, strict=True)]
    assert np.allclose(ranking.average_precision, expected, atol=1e-4)
    metric = "sqeuclidean" if euclidean else "cosine"
    distances, expected_nearest = (
        NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(gallery).kneighbors(queries)
    )
    assert np.allclose(ranking.similarity, -distances if euclidean else 1 - distances, atol=1e-4)
    if not steps:
        assert np.array_equal(ranking.nearest, expected_nearest)
