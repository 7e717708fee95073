"""Protocols against independent ones: scikit-learn, and the form without cached features."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import EVALUATE, PRETRAIN, Rr, write_params
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F

from rr import backbones, paths
from rr.backbones.weights import load_backbone
from rr.data.beton import Beton, write
from rr.data.labels import keep_share
from rr.errors import UserError
from rr.evaluate import knn, linear
from rr.evaluate.features import extract
from rr.evaluate.stage import Target, evaluate
from rr.params import Dataset, Knn, Linear, Retrieval, ShapesSource
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


AUDIT = ["accuracy", "worst_class_accuracy", "best_class_accuracy", "class_gap", "calibration_error"]
TRAINED = [*AUDIT, "loss", "train_accuracy", "train_images"]
KEYS = {
    "linear": TRAINED,
    "finetune": TRAINED,
    "knn": [*AUDIT, "train_images"],
    "retrieval": [
        "mean_average_precision", "precision_at_1", "recall_at_1", "hit_rate_at_1",
        "precision_at_5", "recall_at_5", "hit_rate_at_5", "train_images",
    ],
    "embedding": ["silhouette", "alignment", "uniformity", "effective_rank", "images"],
}  # fmt: skip


@pytest.mark.parametrize("protocol", KEYS)
def test_an_evaluation_writes_its_files_and_keeps_the_backbone(trained: Path, rr: Rr, protocol: str) -> None:
    weights = trained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    before = hashlib.sha256(weights.read_bytes()).digest()
    outcome = rr(*EVALUATE, protocol)
    assert outcome.code == 0, outcome.err
    assert hashlib.sha256(weights.read_bytes()).digest() == before
    folder = trained / FOLDER / protocol
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json", "predictions.parquet", "confusion.csv", "examples.png", "run.json",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == [*KEYS[protocol], "test_images", "classes"]
    assert (metrics["test_images"], metrics["classes"]) == (50, 10)
    rows = pq.read_table(folder / "predictions.parquet")
    assert json.loads(rows.schema.metadata[b"class_names"])[0] == "disc"
    if "prediction" in rows.column_names:
        right = np.asarray(rows["label"]) == np.asarray(rows["prediction"])
        assert metrics["accuracy"] == pytest.approx(right.mean())
        assert metrics["train_images"] == 200
    confused = list(csv.DictReader((folder / "confusion.csv").open()))
    assert len(confused) == (0 if protocol == "embedding" else 50)
    if "prediction" in rows.column_names:
        names = json.loads(rows.schema.metadata[b"class_names"])
        assert [row["label"] for row in confused] == [names[label] for label in rows["label"].to_pylist()]
        assert [row["prediction"] for row in confused] == [names[guess] for guess in rows["prediction"].to_pylist()]
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}
    assert rr(*EVALUATE, protocol).code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"} == first


def pictures(folder: Path, classes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for position in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name / f"{position}.png")


def use_target(project: Path, path: str) -> None:
    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": path, "test_share": 0.4, "unreadable": "stop"}
        params["methods"]["relational"].update(epochs=1)
        params["datasets"]["mine"] = {"source": source, "side": 24, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        params["protocols"]["embedding"].update(images=10, perplexity=2.0)

    write_params(project, change)


@pytest.mark.parametrize("protocol", KEYS)
def test_another_target_with_other_classes_side_and_normalisation(trained: Path, rr: Rr, protocol: str) -> None:
    pictures(trained / "pictures", {"a": 10, "b": 10, "c": 10})
    use_target(trained, "pictures")
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    outcome = rr(*EVALUATE[:-3], "--target", "mine", "--protocol", protocol)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((trained / FOLDER.parent / "mine" / protocol / "metrics.json").read_text())
    assert (metrics["test_images"], metrics["classes"]) == (12, 3)


def test_a_target_is_seen_with_its_own_normalisation(trained: Path, rr: Rr) -> None:
    pictures(trained / "pictures", {"a": 10, "b": 10, "c": 10})
    use_target(trained, "pictures")
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    assert rr(*EVALUATE[:-3], "--target", "mine", "--protocol", "knn").code == 0
    told = pq.read_table(trained / FOLDER.parent / "mine/knn/predictions.parquet")["confidence"].to_numpy()
    backbone = load_backbone(trained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors")
    settings = Knn(kind="knn", neighbours=5, temperature=0.1)

    def confidence(mean: tuple, std: tuple) -> np.ndarray:
        sides = []
        for split in ("train", "test"):
            data = Beton(trained / f"data/beton/mine/{split}.beton", threads=1)
            pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
            normal = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            sides.append((backbone(normal), data.labels))
        return knn.run(settings, *sides, 3).max(1)

    assert np.allclose(told, confidence((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), atol=1e-3)
    assert not np.allclose(told, confidence(SHAPES.mean, SHAPES.std), atol=1e-3)


@pytest.mark.parametrize("protocol", ["linear", "knn", "retrieval", "embedding"])
def test_features_that_are_not_finite_are_refused(
    trained: Path, rr: Rr, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rr.evaluate as stage

    real = stage.extract
    monkeypatch.setattr(
        stage, "extract", lambda *arguments: real(*arguments).index_fill_(0, torch.tensor([3]), torch.inf)
    )
    outcome = rr(*EVALUATE, protocol)
    assert outcome.code == 2
    assert "the backbone gives features that are not finite" in outcome.err
    assert not list((trained / FOLDER).rglob("metrics.json"))


@pytest.mark.parametrize("protocol", KEYS)
def test_targets_without_labels_or_without_pictures_of_a_class_are_refused(
    trained: Path, rr: Rr, protocol: str
) -> None:
    pictures(trained / "pictures", {"train": 20, "test": 10})
    use_target(trained, "pictures")
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    outcome = rr(*EVALUATE[:-3], "--target", "mine", "--protocol", protocol)
    assert outcome.code == 2
    assert "labels are absent, so it cannot be a target" in outcome.err


def test_a_class_that_the_training_split_lacks_is_named(trained: Path) -> None:
    rng = np.random.default_rng(0)
    betons = {}
    for split, labels in (("train", [0, 1, 0, 1]), ("test", [0, 1, 2, 2])):
        betons[split] = trained / f"{split}.beton"
        write(betons[split], rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.array(labels), np.arange(4))
    run = paths.Evaluation(paths.Pretraining("shapes", "conv4", "relational", 1), "mine", "retrieval")
    settings = Retrieval(kind="retrieval", distance="cosine", depths=[1])
    with pytest.raises(
        UserError, match=r"train.beton: no training picture of the class newt, which the test split has"
    ):
        evaluate(settings, Target(SHAPES, betons, ["cat", "dog", "newt"]), run, seed=1, device="cpu", threads=1)
    assert not run.folder.exists()


def test_weights_that_are_no_backbone_are_refused(trained: Path, rr: Rr) -> None:
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
