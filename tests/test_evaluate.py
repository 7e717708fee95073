"""Protocols against independent ones: scikit-learn, and the form without cached features."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import EVALUATE, PRETRAIN, Rr, write_params
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F

from rr import backbones
from rr.data.beton import Beton
from rr.evaluate import knn, linear
from rr.features import extract, load_backbone
from rr.labels import keep_share
from rr.params import Dataset, Knn, Linear, ShapesSource
from rr.views import normalise

FOLDER = Path("runs/evaluate/shapes/conv4/relational/1/shapes")
SHAPES = Dataset(
    source=ShapesSource(kind="shapes", train=200, test=50, seed=0),
    side=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def features(seed: int, count: int, classes: int = 5) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    return torch.from_numpy((centres[labels] + rng.normal(size=(count, 16))).astype(np.float32)), labels


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.1), (20, 0.1), (50, 0.5)])
def test_knn_votes_as_scikit_learn_with_the_same_weights(neighbours: int, temperature: float) -> None:
    train, test = features(0, 400), features(1, 100)
    settings = Knn(kind="knn", neighbours=neighbours, temperature=temperature)
    shares = knn.run(settings, train, test, 5)
    oracle = KNeighborsClassifier(
        neighbours, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train[0].numpy(), train[1])
    assert np.allclose(shares, oracle.predict_proba(test[0].numpy()), atol=1e-5)
    assert np.array_equal(shares.argmax(1), oracle.predict(test[0].numpy()))


def test_a_temperature_that_underflows_leaves_every_query_its_nearest_vote() -> None:
    train, test = features(0, 400), features(1, 100)
    shares = knn.run(Knn(kind="knn", neighbours=20, temperature=1e-6), train, test, 5)
    nearest = knn.run(Knn(kind="knn", neighbours=1, temperature=1.0), train, test, 5)
    assert np.allclose(shares.sum(1), 1)
    assert np.array_equal(shares.argmax(1), nearest.argmax(1))


def test_linear_learns_what_can_be_learnt_and_counts_right() -> None:
    train, test = features(0, 1000), features(1, 300)
    settings = Linear(kind="linear", labelled=1.0, epochs=20, batch_size=64, learning_rate=0.01)
    probabilities, metrics = linear.run(settings, train, test, 5, seed=1)
    assert np.mean(probabilities.argmax(1) == test[1]) > 0.9
    assert np.allclose(probabilities.sum(1), 1)
    assert metrics["loss"] == pytest.approx(-np.log(probabilities[np.arange(300), test[1]]).mean(), rel=1e-5)
    again, same = linear.run(settings, train, test, 5, seed=1)
    assert np.array_equal(again, probabilities)
    assert same == metrics


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
def test_few_labels_means_no_other_picture_is_looked_at(share: float) -> None:
    train, test = features(0, 1000), features(1, 300)
    settings = Linear(kind="linear", labelled=share, epochs=3, batch_size=64, learning_rate=0.01)
    kept = keep_share(train[1], share, 1) >= 0
    probabilities, metrics = linear.run(settings, train, test, 5, seed=1)
    assert metrics["train_images"] == kept.sum()
    assert [kept[train[1] == c].sum() for c in range(5)] == [
        max(1, round(share * (train[1] == c).sum())) for c in range(5)
    ]
    spoilt = train[0].clone()
    spoilt[torch.from_numpy(~kept)] = 1e6
    again, _ = linear.run(settings, (spoilt, train[1]), test, 5, seed=1)
    assert np.array_equal(again, probabilities)


def test_cached_features_give_what_the_images_give_every_epoch(converted: Path) -> None:
    data = Beton(converted / "data/beton/shapes/train.beton", threads=2)
    assert data.images is not None
    torch.manual_seed(0)
    backbone = backbones.build("conv4").eval().requires_grad_(False)
    cached = extract(backbone, data, SHAPES, "cpu")
    settings = Linear(kind="linear", labelled=1.0, epochs=3, batch_size=64, learning_rate=0.001)
    probabilities, metrics = linear.run(settings, (cached, data.labels), (cached, data.labels), 10, seed=7)

    torch.manual_seed(7)
    layer = nn.Linear(64, 10)
    optimiser, shuffle = torch.optim.Adam(layer.parameters(), 0.001), torch.Generator().manual_seed(7)
    labels = torch.from_numpy(data.labels)
    for _ in range(3):
        for rows in torch.randperm(len(labels), generator=shuffle).split(64):
            images = torch.from_numpy(data.images[rows.numpy()]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
            loss = F.cross_entropy(layer(backbone(images)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    logits = layer(backbone(images))
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert np.allclose(logits.softmax(1).detach().numpy(), probabilities, atol=1e-4)


def test_features_are_those_of_the_normalised_picture(converted: Path) -> None:
    data = Beton(converted / "data/beton/shapes/test.beton", threads=1)
    assert data.images is not None
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (
        torch.from_numpy(data.images).permute(0, 3, 1, 2).double() / 255 - torch.tensor(mean)[:, None, None]
    ) / (torch.tensor(std)[:, None, None])
    assert torch.allclose(normalise(data.images, mean=mean, std=std, device="cpu").double(), expected, atol=1e-5)


@pytest.fixture
def trained(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: Rr) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    monkeypatch.chdir(folder)
    write_params(folder, lambda params: params["methods"]["relational"].update(epochs=1))
    assert rr(*PRETRAIN).code == 0
    return folder


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_an_evaluation_writes_metrics_and_predictions_and_keeps_the_backbone(
    trained: Path, rr: Rr, protocol: str
) -> None:
    weights = trained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    before = hashlib.sha256(weights.read_bytes()).digest()
    assert rr(*EVALUATE, protocol).code == 0
    assert hashlib.sha256(weights.read_bytes()).digest() == before
    metrics = json.loads((trained / FOLDER / protocol / "metrics.json").read_text())
    rows = pq.read_table(trained / FOLDER / protocol / "predictions.parquet")
    right = np.asarray(rows["label"]) == np.asarray(rows["prediction"])
    assert metrics["accuracy"] == pytest.approx(right.mean())
    assert (metrics["test_images"], metrics["train_images"], metrics["classes"]) == (50, 200, 10)


def test_weights_that_are_no_backbone_are_refused(trained: Path, rr: Rr) -> None:
    from rr.errors import UserError

    weights = trained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match="no backbone of this project"):
        load_backbone(weights)
    outcome = rr(*EVALUATE, "knn")
    assert outcome.code == 2
    assert "backbone.safetensors is not the file that its record describes" in outcome.err


def test_more_neighbours_than_pictures_and_an_unknown_protocol(trained: Path, rr: Rr) -> None:
    write_params(trained, lambda params: params["protocols"]["knn"].update(neighbours=500))
    outcome = rr(*EVALUATE, "knn")
    assert outcome.code == 2
    assert "needs as many training pictures; there are 200" in outcome.err
    assert "did you mean 'knn'" in rr(*EVALUATE, "knnn").err
    assert not list((trained / FOLDER).rglob("metrics.json"))
