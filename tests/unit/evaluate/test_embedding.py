"""The geometry of features against independent forms, and the map."""

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import nn
from torch.nn import functional as F

from rr.data.beton import Beton, write
from rr.errors import UserError
from rr.evaluate import embedding
from rr.evaluate.representation_metrics import alignment, effective_rank, uniformity
from rr.params import Dataset, Embedding, ShapesSource
from rr.views import Augmentation

DATASET = Dataset(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0), side=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


class Means(nn.Module):
    """A backbone of two features: the mean of the first and of the second channel."""

    features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, :2]


def settings(**changes: object) -> Embedding:
    values = {"images": 40, "perplexity": 5.0, "augmentation": Augmentation(flip=0.5)}
    return Embedding(kind="embedding", **(values | changes))


@pytest.fixture
def test_split(tmp_path) -> Beton:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), np.uint8) // (1 + i % 3) for i in range(60)]
    write(tmp_path / "test", images, np.arange(60) % 3, np.arange(60))
    return Beton(tmp_path / "test", threads=1)


def features(data: Beton) -> torch.Tensor:
    assert data.images is not None
    return Means()(torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255)


def run(data: Beton, **changes: object):
    return embedding.run(settings(**changes), Means(), features(data), data, DATASET, seed=3, device="cpu")


def test_a_flip_leaves_means_alone_so_views_align(test_split: Beton) -> None:
    found = run(test_split)
    assert found.metrics["alignment"] == pytest.approx(0, abs=1e-9)
    assert run(test_split, augmentation=Augmentation(crop="resized")).metrics["alignment"] > 1e-4
    assert len(found.rows) == found.metrics["images"] == len(found.columns["x"]) == 40
    assert np.array_equal(found.rows, np.unique(found.rows))
    expected = silhouette_score(F.normalize(features(test_split)[found.rows]).numpy(), test_split.labels[found.rows])
    assert found.metrics["silhouette"] == pytest.approx(expected)


def test_the_same_seed_gives_the_same_bits(test_split: Beton) -> None:
    first, second = run(test_split), run(test_split)
    assert first.metrics == second.metrics
    assert np.array_equal(first.columns["x"], second.columns["x"])
    assert np.array_equal(first.examples, second.examples)


def test_effective_rank_of_known_spectra() -> None:
    square = torch.tensor([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    assert effective_rank(square) == pytest.approx(2)
    assert effective_rank(square + 5) == pytest.approx(2)  # the mean is no direction
    assert effective_rank(square * torch.tensor([1.0, 0, 0])) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(5, 3)) == 1
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(x.double() - x.double().mean(0))
    shares = values / values.sum()
    assert effective_rank(x) == pytest.approx(float((-(shares * shares.log()).sum()).exp()))


def test_alignment_and_uniformity_by_hand() -> None:
    first, second = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[0.0, 1], [0, 1]])
    assert alignment(first, second) == pytest.approx(1.0)  # squared distances 2 and 0
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    assert uniformity(corners) == pytest.approx(np.log((np.exp(-8) + 2 * np.exp(-4)) / 3))
    assert uniformity(torch.ones(4, 2)) == pytest.approx(0, abs=1e-12)


def test_the_map_puts_pictures_where_they_belong_and_covers_none() -> None:
    images = np.stack([np.full((512, 512, 3), value, np.uint8) for value in (10, 20, 30, 40)])
    canvas = embedding.draw_map(images, np.array([[0.0, 0], [1, 1], [0, 1], [0, 1]]))
    assert canvas.shape == (1024, 1024, 3)
    # y grows upwards; of two pictures at one place the first stays, and the empty corner is white.
    assert [canvas[0, 0, 0], canvas[0, -1, 0], canvas[-1, 0, 0], canvas[-1, -1, 0]] == [30, 20, 10, 255]


def test_bad_settings_are_refused(test_split: Beton) -> None:
    with pytest.raises(UserError, match="perplexity of 40 needs more pictures"):
        run(test_split, perplexity=40.0)
    test_split.labels[:] = 1
    with pytest.raises(UserError, match="the silhouette needs two classes"):
        run(test_split)
