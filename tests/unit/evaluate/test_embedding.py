"""The embedding protocol: metrics of features compared with independent implementations, and the map."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import nn
from torch.nn import functional as F

from rr.data.beton import Beton, write
from rr.data.feature_file import SplitFeatures
from rr.evaluate import embedding
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.relation_head import RelationHead
from rr.evaluate.representation_metrics import alignment, effective_rank, uniformity
from rr.evaluate.result import ProtocolResult
from rr.evaluate.target import Target
from rr.params import DatasetConfig, EmbeddingConfig, ShapesSource
from rr.paths import PretrainPaths
from rr.views import Augmentation

DATASET = DatasetConfig(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0),
    image_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


class ChannelMeans(nn.Module):
    """A backbone with two features: the means of the first and the second channel."""

    features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, :2]


def make_config(**changes: object) -> EmbeddingConfig:
    values = {"images": 40, "perplexity": 5.0, "augmentation": Augmentation(flip=0.5)}
    return EmbeddingConfig(kind="embedding", **(values | changes))


@pytest.fixture
def test_split(tmp_path) -> Beton:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), np.uint8) // (1 + i % 3) for i in range(60)]
    write(tmp_path / "test", images, np.arange(60) % 3, np.arange(60))
    return Beton(tmp_path / "test", threads=1)


def compute_features(beton: Beton) -> torch.Tensor:
    assert beton.images is not None
    images = torch.from_numpy(beton.images).permute(0, 3, 1, 2).float() / 255
    return ChannelMeans()((images - 0.5) / 0.5)


def evaluate(beton: Beton, head: RelationHead | None = None, **changes: object) -> ProtocolResult:
    split = SplitFeatures(compute_features(beton).numpy(), beton.labels, beton.index)
    target = Target("mine", DATASET, dict.fromkeys(("train", "test"), beton.path), ["a", "b", "c"])
    run = PretrainPaths("mine", "conv4", "random", 1)
    inputs = EvaluationInputs(split, split, target, run, seed=3, device="cpu", threads=1)
    vars(inputs)["load_backbone"] = ChannelMeans
    vars(inputs)["load_relation_head"] = lambda: head
    return embedding.evaluate(inputs, make_config(**changes))


def test_metrics_of_flipped_views(test_split: Beton) -> None:
    result = evaluate(test_split)
    assert result.metrics["alignment"] == pytest.approx(0, abs=1e-9)  # a flip does not change the channel means
    assert evaluate(test_split, augmentation=Augmentation(crop="resized")).metrics["alignment"] > 1e-4
    assert len(result.rows) == result.metrics["images"] == len(result.columns["x"]) == 40
    assert np.array_equal(result.rows, np.unique(result.rows))
    features = F.normalize(compute_features(test_split)[result.rows]).numpy()
    assert result.metrics["silhouette"] == pytest.approx(silhouette_score(features, test_split.labels[result.rows]))


def test_relation_head_is_calibrated(test_split: Beton) -> None:
    assert not [name for name in evaluate(test_split).metrics if name.startswith("relation")]
    # The logit is the larger of two features, each of which is the same in both views of an image.
    head = RelationHead("max", np.ones((2, 1), np.float32), np.zeros(1, np.float32), np.ones(1, np.float32), 0.0)
    metrics = evaluate(test_split, head).metrics
    assert metrics["relation_pairs"] == 40  # 20 images, each in a positive and in a negative pair
    assert 0 <= metrics["relation_calibration_error"] <= 1


def test_same_seed_gives_identical_result(test_split: Beton) -> None:
    first, second = evaluate(test_split), evaluate(test_split)
    assert first.metrics == second.metrics
    assert np.array_equal(first.columns["x"], second.columns["x"])
    assert np.array_equal(first.examples, second.examples)


def test_effective_rank_of_known_spectra() -> None:
    square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    assert effective_rank(square) == pytest.approx(2)
    assert effective_rank(square + 5) == pytest.approx(2)  # the mean does not count
    assert effective_rank(square * torch.tensor([1.0, 0, 0])) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(5, 3)) == 1
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    singular_values = torch.linalg.svdvals(x.double() - x.double().mean(0))
    p = singular_values / singular_values.sum()
    assert effective_rank(x) == pytest.approx(float((-(p * p.log()).sum()).exp()))


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
    # y points upwards. The first of two images with the same coordinates is shown. The empty corner is white.
    assert [canvas[0, 0, 0], canvas[0, -1, 0], canvas[-1, 0, 0], canvas[-1, -1, 0]] == [30, 20, 10, 255]
