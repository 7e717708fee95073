"""Test the embedding protocol: feature metrics compared with independent implementations, and the map."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_inputs import make_inputs
from PIL import Image
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional as F

from rr.data.beton import Beton, encode_photograph, max_photograph_bytes, write, write_stored
from rr.data.feature_file import SplitFeatures
from rr.data.photograph_beton import PhotographBeton
from rr.evaluate import embedding
from rr.evaluate.relation_head import NumpyRelationHead, measure_calibration
from rr.evaluate.representation_metrics import alignment, effective_rank, rankme, uniformity
from rr.evaluate.result import ProtocolResult
from rr.params import DatasetConfig, EmbeddingConfig, ShapesSource
from rr.views import Augmentation, make_views

DATASET = DatasetConfig(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0),
    image_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


class ChannelMeans(nn.Module):
    """A backbone with two features: the means of the first and the second channel."""

    num_features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, :2]


def make_config(**changes: object) -> EmbeddingConfig:
    values = {"images": 40, "perplexity": 5.0, "augmentation": Augmentation(flip=0.5)}
    return EmbeddingConfig(kind="embedding", **(values | changes))


def write_random_split(path: Path, index: np.ndarray, seed: int) -> Beton:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (8, 8, 3), np.uint8) // (1 + i % 3) for i in range(len(index))]
    write(path, images, np.arange(len(index)) % 3, index)
    return Beton(path, threads=1)


@pytest.fixture
def test_split(tmp_path: Path) -> Beton:
    return write_random_split(tmp_path / "test", 5 + 2 * np.arange(60), seed=0)


@pytest.fixture
def train_split(tmp_path: Path) -> Beton:
    return write_random_split(tmp_path / "train", 1000 + 3 * np.arange(80), seed=1)


def compute_features(beton: Beton) -> torch.Tensor:
    assert beton.images is not None
    images = torch.from_numpy(beton.images).permute(0, 3, 1, 2).float() / 255
    return ChannelMeans()((images - 0.5) / 0.5)


def evaluate(
    beton: Beton,
    labels: np.ndarray | None = None,
    head: NumpyRelationHead | None = None,
    features: np.ndarray | None = None,
    stored_size: int | None = None,
    train: tuple[Beton, np.ndarray] | None = None,
    **changes: object,
) -> ProtocolResult:
    """Evaluate the test split `beton`. `train` is the training split and its features, and defaults to `beton`."""
    labels = beton.labels if labels is None else labels
    test = SplitFeatures(compute_features(beton).numpy() if features is None else features, labels, beton.index)
    train_beton, train_features = train or (beton, test.features)
    train_labels = train_beton.labels if train else labels
    dataset = DATASET.model_copy(update={"stored_size": stored_size})
    inputs = make_inputs(
        SplitFeatures(train_features, train_labels, train_beton.index), test,
        {"train": train_beton.path, "test": beton.path}, dataset, ["a", "b", "c"], seed=3,
        load_backbone=ChannelMeans, load_relation_head=lambda: head,
    )  # fmt: skip
    return embedding.evaluate(inputs, make_config(**changes))


def test_metrics_of_flipped_views(test_split: Beton) -> None:
    result = evaluate(test_split)
    assert result.metrics["alignment"] == pytest.approx(0, abs=1e-9)  # a flip does not change the channel means
    assert evaluate(test_split, augmentation=Augmentation(crop="resized")).metrics["alignment"] > 1e-4
    assert len(result.rows) == result.metrics["images"] == len(result.columns["x"]) == 40
    assert np.array_equal(result.rows, np.unique(result.rows))
    features = F.normalize(compute_features(test_split)[result.rows]).numpy()
    assert result.metrics["silhouette"] == pytest.approx(silhouette_score(features, test_split.labels[result.rows]))


def test_views_of_photographs_are_cropped_from_the_whole_photograph(tmp_path: Path) -> None:
    """The center of each photograph, which is evaluated, has one color; the ends have different colors."""
    pixels = np.full((16, 80, 3), 128, np.uint8)
    pixels[:, :20], pixels[:, 60:] = (255, 0, 0), (0, 255, 0)
    stored = [encode_photograph(pixels, "raw")] * 60
    write_stored(tmp_path / "test", stored, np.arange(60) % 3, np.arange(60), max_photograph_bytes(16))
    photos = PhotographBeton(tmp_path / "test", 8, threads=1)
    features = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    result = evaluate(photos, features=features, stored_size=16, augmentation=Augmentation(crop="resized"))
    assert result.metrics["alignment"] > 0.1


def test_silhouette_is_that_of_the_labeled_images(test_split: Beton) -> None:
    labels = np.where(np.arange(60) < 45, test_split.labels, -1)
    result = evaluate(test_split, labels)
    rows = result.rows[labels[result.rows] >= 0]
    features = F.normalize(compute_features(test_split)[rows]).numpy()
    assert result.metrics["silhouette"] == pytest.approx(silhouette_score(features, test_split.labels[rows]))
    for labels in (np.full(60, -1), np.zeros(60, np.int64), np.arange(60)):
        result = evaluate(test_split, labels)
        assert list(result.metrics) == ["rankme", "alignment", "uniformity", "effective_rank", "images"]


def test_neighbors_and_outliers_match_brute_force(test_split: Beton, train_split: Beton) -> None:
    result = evaluate(test_split, train=(train_split, compute_features(train_split).numpy()))
    features, train_features = (
        F.normalize(compute_features(split).double()).numpy() for split in (test_split, train_split)
    )
    similarity = np.sort(features[result.rows] @ train_features.T, axis=1)[:, :-11:-1]
    assert result.columns["similarities"] == pytest.approx(similarity, abs=1e-6)
    assert result.columns["outlier_score"] == pytest.approx(1 - similarity.mean(1), abs=1e-6)
    positions = np.searchsorted(train_split.index, result.columns["train_neighbors"])
    assert np.array_equal(train_split.index[positions], result.columns["train_neighbors"])
    cosines = np.einsum("rd,rkd->rk", features[result.rows], train_features[positions])
    assert cosines == pytest.approx(similarity, abs=1e-6)


def test_clusters_are_found_and_sorted_by_size(test_split: Beton) -> None:
    angles = np.repeat([0.0, 2.0, 4.0], [10, 30, 20]) + np.linspace(0, 0.1, 60)
    clusters, distances = embedding._find_clusters(np.stack([np.cos(angles), np.sin(angles)], 1), 3, seed=0)
    assert clusters.tolist() == np.repeat([2, 0, 1], [10, 30, 20]).tolist()
    assert distances.max() < 0.1
    assert set(evaluate(test_split, clusters=4).columns["cluster"]) == set(range(4))


def test_few_or_identical_images_have_a_map(test_split: Beton) -> None:
    result = evaluate(test_split, images=10, perplexity=1000.0)
    assert np.isfinite(result.columns["x"]).all()
    assert test_split.images is not None
    test_split.images[:] = 100
    result = evaluate(test_split)
    assert result.metrics["rankme"] == pytest.approx(1)
    assert set(result.columns["cluster"]) == {0}
    assert np.isfinite(result.columns["x"]).all()


def test_identical_features_have_a_map() -> None:
    assert not embedding.compute_tsne(np.full((60, 2), 0.5, np.float32), 5.0, 0).any()


def test_relation_head_is_calibrated(test_split: Beton) -> None:
    assert not [name for name in evaluate(test_split).metrics if name.startswith("relation")]
    head = NumpyRelationHead("max", np.ones((2, 1), np.float32), np.zeros(1, np.float32), np.ones(1, np.float32), 0.0)
    crops = Augmentation(crop="resized")
    result = evaluate(test_split, head=head, augmentation=crops)
    assert test_split.images is not None
    views = make_views(
        test_split.images[result.rows], test_split.index[result.rows], augmentation=crops, seed=3, epoch=0, num_views=2,
        mean=DATASET.mean, std=DATASET.std, device="cpu",
    )  # fmt: skip
    expected = measure_calibration(head, ChannelMeans()(views).numpy().reshape(2, 40, 2), seed=3)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert expected["relation_pairs"] == 40  # 20 images, each in one positive and one negative pair


def test_same_seed_gives_identical_result(test_split: Beton) -> None:
    first, second = evaluate(test_split), evaluate(test_split)
    assert first.metrics == second.metrics
    assert np.array_equal(first.columns["x"], second.columns["x"])
    assert np.array_equal(first.examples, second.examples)


def test_neighbors_and_thumbnails_belong_to_the_sample(test_split: Beton) -> None:
    result = evaluate(test_split)
    features = F.normalize(compute_features(test_split)[result.rows]).numpy()
    # scikit-learn finds the image itself first.
    search = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(features)
    distances, _ = search.kneighbors(features)
    neighbors = result.columns["neighbors"]
    assert neighbors.shape == (40, 5)
    row_of = {int(test_split.index[row]): position for position, row in enumerate(result.rows)}
    for position in range(40):
        found = [row_of[int(index)] for index in neighbors[position]]
        assert position not in found
        cosine = 1 - features[found] @ features[position]
        np.testing.assert_allclose(cosine, distances[position, 1:], atol=1e-5)
    shown = Image.open(io.BytesIO(result.columns["thumbnail"][0]))
    assert (shown.format, shown.size) == ("WEBP", (8, 8))


def test_examples_show_neighbors_clusters_and_outliers(tmp_path: Path) -> None:
    """All pixels of an image have the value of its row, or of its row plus 100 in the training split."""
    rows = np.arange(60)
    for split, first, index in (("test", 0, rows), ("train", 100, 1000 + 3 * rows)):
        write(tmp_path / split, (np.full((8, 8, 3), first + row, np.uint8) for row in rows), rows % 3, index)
    features, train_features = F.normalize(
        torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0)), dim=2
    ).numpy()
    test, train = (Beton(tmp_path / split, threads=1) for split in ("test", "train"))
    result = evaluate(test, features=features, train=(train, train_features), clusters=4)
    tops = np.cumsum([48, 82, 48, 42, 48])  # a title has 48 rows of pixels, and an image has 8, with 2 below it
    grids = [
        result.examples[top + 6 : top + 10 * count : 10, 6:122:10, 0].astype(int)
        for top, count in zip(tops[::2], (8, 4, 2), strict=True)
    ]
    queries = [round(39 * n / 7) for n in range(8)]
    neighbors = 100 + (result.columns["train_neighbors"][queries] - 1000) // 3
    expected = np.column_stack((result.rows[queries], np.full(8, 255), neighbors))
    assert np.array_equal(grids[0], expected)
    for cluster, shown in enumerate(grids[1]):
        members = result.rows[result.columns["cluster"] == cluster]
        distances = np.linalg.norm(features[members] - features[members].mean(0), axis=1)
        nearest = members[distances.argsort()][:11]
        assert shown[1:].tolist() == [*nearest, *[255] * (11 - len(nearest))]
    assert np.array_equal(grids[2].ravel(), result.rows[(-result.columns["outlier_score"]).argsort()][:24])


def test_effective_rank_of_known_spectra() -> None:
    square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    assert effective_rank(square) == pytest.approx(2)
    assert effective_rank(square + 5) == pytest.approx(2)  # the mean has no effect
    assert effective_rank(square * torch.tensor([1.0, 0, 0])) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(5, 3)) == 1
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    singular_values = torch.linalg.svdvals(x.double() - x.double().mean(0))
    p = singular_values / singular_values.sum()
    assert effective_rank(x) == pytest.approx(float((-(p * p.log()).sum()).exp()))


def test_rankme_of_known_spectra() -> None:
    square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    assert rankme(square) == pytest.approx(2)
    assert rankme(square.abs()) == pytest.approx(1, abs=1e-6)  # all features are identical
    noise = 1e-4 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert rankme(1 + noise) < 1.01 < 2 < effective_rank(1 + noise)  # subtracting the mean would hide the collapse
    assert rankme(torch.zeros(5, 3)) == 1
    x = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    p = torch.linalg.svdvals(x.double()) / torch.linalg.svdvals(x.double()).sum() + 1e-7  # the paper's equation
    assert rankme(x) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-5)


def test_alignment_and_uniformity_by_hand() -> None:
    first, second = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[0.0, 1], [0, 1]])
    assert alignment(first, second) == pytest.approx(1.0)  # squared distances 2 and 0
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    assert uniformity(corners) == pytest.approx(np.log((np.exp(-8) + 2 * np.exp(-4)) / 3))
    assert uniformity(torch.ones(4, 2)) == pytest.approx(0, abs=1e-12)


def test_map_places_images_without_overlap() -> None:
    images = np.stack([np.full((512, 512, 3), value, np.uint8) for value in (10, 20, 30, 40)])
    canvas = embedding.render_map(images, np.array([[0.0, 0], [1, 1], [0, 1], [0, 1]]))
    assert canvas.shape == (1024, 1024, 3)
    # y points upward. If two images have the same coordinates, only the first is shown. The empty corner is white.
    assert [canvas[0, 0, 0], canvas[0, -1, 0], canvas[-1, 0, 0], canvas[-1, -1, 0]] == [30, 20, 10, 255]


def test_larger_samples_contain_the_smaller_ones() -> None:
    assert np.array_equal(embedding.sample_test_rows(2000, 2000, seed=1), np.arange(2000))
    assert set(embedding.sample_test_rows(2000, 10, seed=1)) < set(embedding.sample_test_rows(2000, 40, seed=1))
