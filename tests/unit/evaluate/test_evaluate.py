"""Test the evaluate stage, and compare its protocols with independent implementations."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_inputs import make_inputs
from helpers import EVALUATE, EXTRACT, PRETRAIN, Outcome, RunRr, enter_copy, write_params
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F

from rr import backbones
from rr import extract as extract_stage
from rr.backbones.weights import load_backbone
from rr.data.beton import Beton, write
from rr.data.feature_file import SplitFeatures, read_features
from rr.data.label_fraction import keep_label_fraction
from rr.errors import UserError
from rr.evaluate import knn, linear
from rr.evaluate.classification import make_classification_result
from rr.evaluate.embedding import sample_test_rows
from rr.evaluate.feature_extraction import extract_features
from rr.evaluate.stage import _format_true_and_predicted_csv
from rr.params import NUMPY_PROTOCOLS, DatasetConfig, FinetuneConfig, KnnConfig, LinearConfig, ShapesSource
from rr.views import normalize

FOLDER = Path("runs/evaluate/shapes/conv4/relational/1/shapes")
FEATURES = Path("runs/features/shapes/conv4/relational/1/shapes")
SHAPES = DatasetConfig(
    source=ShapesSource(kind="shapes", train=200, test=50, seed=0),
    image_size=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def sample_features(seed: int, count: int, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return features that are normally distributed around a center for each class, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count)
    centers = np.random.default_rng(99).normal(size=(num_classes, 16))
    return (centers[labels] + rng.normal(size=(count, 16))).astype(np.float32), labels


def sample_tensors(seed: int, count: int) -> tuple[torch.Tensor, np.ndarray]:
    features, labels = sample_features(seed, count)
    return torch.from_numpy(features), labels


@pytest.mark.parametrize(("neighbors", "temperature"), [(1, 0.1), (20, 0.1), (50, 0.5)])
def test_knn_matches_scikit_learn(neighbors: int, temperature: float) -> None:
    (train_features, train_labels), (test_features, _) = sample_features(0, 400), sample_features(1, 300)
    config = KnnConfig(kind="knn", neighbors=neighbors, temperature=temperature)
    probabilities = knn.predict_probabilities(train_features, train_labels, test_features, 5, config)
    classifier = KNeighborsClassifier(
        neighbors, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train_features, train_labels)
    assert np.allclose(probabilities, classifier.predict_proba(test_features), atol=1e-5)
    assert np.array_equal(probabilities.argmax(1), classifier.predict(test_features))


def test_knn_with_tiny_temperature_predicts_the_class_of_the_nearest_image() -> None:
    (train_features, train_labels), (test_features, _) = sample_features(0, 400), sample_features(1, 100)
    probabilities, nearest = (
        knn.predict_probabilities(train_features, train_labels, test_features, 5, config)
        for config in (
            KnnConfig(kind="knn", neighbors=20, temperature=1e-6),
            KnnConfig(kind="knn", neighbors=1, temperature=1.0),
        )
    )
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(probabilities.argmax(1), nearest.argmax(1))


def test_linear_learns_separable_classes_reproducibly() -> None:
    train, test = sample_tensors(0, 1000), sample_tensors(1, 300)
    config = LinearConfig(kind="linear", label_fraction=1.0, epochs=20, batch_size=64, learning_rate=0.01)
    probabilities, metrics = linear.train_and_predict(*train, *test, config, num_classes=5, seed=1)
    assert np.mean(probabilities.argmax(1) == test[1]) > 0.9
    assert np.allclose(probabilities.sum(1), 1)
    assert metrics["loss"] == pytest.approx(-np.log(probabilities[np.arange(300), test[1]]).mean(), rel=1e-5)
    probabilities_again, metrics_again = linear.train_and_predict(*train, *test, config, num_classes=5, seed=1)
    assert np.array_equal(probabilities_again, probabilities)
    assert metrics_again == metrics


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25])
def test_linear_does_not_use_images_without_kept_label(fraction: float) -> None:
    (features, labels), test = sample_tensors(0, 1000), sample_tensors(1, 300)
    config = LinearConfig(kind="linear", label_fraction=fraction, epochs=3, batch_size=64, learning_rate=0.01)
    kept = keep_label_fraction(labels, fraction, 1) >= 0
    probabilities, metrics = linear.train_and_predict(features, labels, *test, config, num_classes=5, seed=1)
    assert metrics["train_images"] == kept.sum()
    assert [kept[labels == c].sum() for c in range(5)] == [
        max(1, round(fraction * (labels == c).sum())) for c in range(5)
    ]
    changed = features.clone()
    changed[torch.from_numpy(~kept)] = 1e6
    probabilities_again, _ = linear.train_and_predict(changed, labels, *test, config, num_classes=5, seed=1)
    assert np.array_equal(probabilities_again, probabilities)


def test_linear_on_cached_features_matches_training_on_images(converted_project: Path) -> None:
    data = Beton(converted_project / "data/beton/shapes/train.beton", threads=2)
    assert data.images is not None
    torch.manual_seed(0)
    backbone = backbones.build("conv4").eval().requires_grad_(False)
    cached = extract_features(backbone, data, SHAPES, "cpu")
    config = LinearConfig(kind="linear", label_fraction=1.0, epochs=3, batch_size=64, learning_rate=0.001)
    probabilities, metrics = linear.train_and_predict(
        cached, data.labels, cached, data.labels, config, num_classes=10, seed=7
    )

    torch.manual_seed(7)
    layer = nn.Linear(64, 10)
    optimizer, shuffle = torch.optim.Adam(layer.parameters(), 0.001), torch.Generator().manual_seed(7)
    labels = torch.from_numpy(data.labels)
    for _ in range(3):
        for rows in torch.randperm(len(labels), generator=shuffle).split(64):
            images = torch.from_numpy(data.images[rows.numpy()]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
            loss = F.cross_entropy(layer(backbone(images)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    logits = layer(backbone(images))
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert np.allclose(logits.softmax(1).detach().numpy(), probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        (LinearConfig.model_construct(kind="linear"), "lower learning_rate"),
        (FinetuneConfig.model_construct(kind="finetune"), "lower backbone_lr and classifier_lr"),
        (KnnConfig.model_construct(kind="knn"), "raise temperature"),
    ],
)
def test_probabilities_that_are_not_finite_raise(
    converted_project: Path, config: LinearConfig | FinetuneConfig | KnnConfig, remedy: str
) -> None:
    split = SplitFeatures(np.zeros((50, 1), np.float32), np.arange(50) % 10, np.arange(50))
    betons = {"test": converted_project / "data/beton/shapes/test.beton"}
    inputs = make_inputs(split, split, betons, SHAPES, ["class"] * 10)
    with pytest.raises(
        UserError, match=f"{config.kind}: the predicted class probabilities .*: {remedy} for this protocol"
    ):
        make_classification_result(np.full((50, 10), np.nan), inputs, {}, config)
    with pytest.raises(UserError, match=f"{config.kind}: loss is inf: {remedy} for this protocol"):
        make_classification_result(np.full((50, 10), 0.1), inputs, {"loss": np.inf}, config)


def test_examples_are_the_images_whose_class_has_the_lowest_probability(tmp_path: Path) -> None:
    """All pixels of an image have the value of its row."""
    rows = np.arange(100)
    write(tmp_path / "test", (np.full((8, 8, 3), row, np.uint8) for row in rows), rows % 10, rows)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), 100)
    split = SplitFeatures(np.zeros((100, 1), np.float32), rows % 10, rows)
    inputs = make_inputs(split, split, {"test": tmp_path / "test"}, SHAPES, ["class"] * 10)
    result = make_classification_result(probabilities, inputs, {}, KnnConfig(kind="knn", neighbors=5, temperature=0.1))
    shown = result.examples[6::10, 6::10, 0].ravel()  # images of 8 x 8 pixels, with gaps of 2 pixels
    assert shown.tolist() == sorted(rows, key=lambda row: probabilities[row, row % 10])[:60]


def test_images_are_normalized(converted_project: Path) -> None:
    data = Beton(converted_project / "data/beton/shapes/test.beton", threads=1)
    assert data.images is not None
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (
        torch.from_numpy(data.images).permute(0, 3, 1, 2).double() / 255 - torch.tensor(mean)[:, None, None]
    ) / (torch.tensor(std)[:, None, None])
    assert torch.allclose(normalize(data.images, mean=mean, std=std, device="cpu").double(), expected, atol=1e-5)


@pytest.fixture(scope="module")
def pretrained_project(converted_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a backbone that was trained for one epoch, and its features. Tests must copy it."""
    folder = tmp_path_factory.mktemp("pretrained") / "project"
    shutil.copytree(converted_project, folder)
    write_params(folder, lambda params: params["methods"]["relational"].update(epochs=1))
    for command in (PRETRAIN, EXTRACT):
        subprocess.run([sys.executable, "-m", "rr", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def pretrained(pretrained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project with a backbone, make the copy the current folder, and return it."""
    return enter_copy(pretrained_project, tmp_path / "project", monkeypatch)


CLASS_METRICS = [
    "accuracy",
    "balanced_accuracy",
    "worst_class_accuracy",
    "best_class_accuracy",
    "class_gap",
    "calibration_error",
]
TRAINING_METRICS = [*CLASS_METRICS, "loss", "train_accuracy", "train_images"]
METRICS = {
    "linear": TRAINING_METRICS,
    "finetune": TRAINING_METRICS,
    "knn": [*CLASS_METRICS, "train_images"],
    "retrieval": [
        "mean_average_precision", "precision_at_1", "recall_at_1", "hit_rate_at_1",
        "precision_at_5", "recall_at_5", "hit_rate_at_5", "reranked_mean_average_precision",
        "reranked_precision_at_1", "reranked_precision_at_5", "train_images",
    ],
    "embedding": [
        "silhouette", "rankme", "alignment", "uniformity", "effective_rank", "images",
        "relation_slope", "relation_intercept", "relation_pairs", "relation_accuracy", "relation_calibration_error",
        "relation_uncalibrated_error",
    ],
}  # fmt: skip


@pytest.mark.parametrize("protocol", METRICS)
def test_evaluate_is_reproducible_and_keeps_the_backbone(pretrained: Path, rr: RunRr, protocol: str) -> None:
    weights = pretrained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    before = hashlib.sha256(weights.read_bytes()).digest()
    outcome = rr(*EVALUATE, protocol)
    assert outcome.code == 0, outcome.err
    assert hashlib.sha256(weights.read_bytes()).digest() == before
    folder = pretrained / FOLDER / protocol
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json", "predictions.parquet", "confusion.csv", "examples.png", "run.json",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == [*METRICS[protocol], "test_images", "classes"]
    assert (metrics["test_images"], metrics["classes"]) == (50, 10)
    rows = pq.read_table(folder / "predictions.parquet")
    assert json.loads(rows.schema.metadata[b"class_names"])[0] == "disc"
    stored = read_features(pretrained / FEATURES / "features.safetensors", "test")
    positions = sample_test_rows(50, 40, seed=1) if protocol == "embedding" else np.arange(50)
    assert np.array_equal(rows["index"], stored.index[positions])
    assert np.array_equal(rows["label"], stored.labels[positions])
    if "prediction" in rows.column_names:
        is_correct = np.asarray(rows["label"]) == np.asarray(rows["prediction"])
        assert metrics["accuracy"] == pytest.approx(is_correct.mean())
        assert metrics["train_images"] == 200
    confusion = list(csv.DictReader((folder / "confusion.csv").open()))
    assert len(confusion) == (0 if protocol == "embedding" else 50)
    if "prediction" in rows.column_names:
        names = json.loads(rows.schema.metadata[b"class_names"])
        assert [row["label"] for row in confusion] == [names[label] for label in rows["label"].to_pylist()]
        assert [row["prediction"] for row in confusion] == [names[label] for label in rows["prediction"].to_pylist()]
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}
    assert rr(*EVALUATE, protocol).code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"} == first


def write_image_folder(folder: Path, classes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for position in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name / f"{position}.png")


def use_target(project: Path, path: str, stored_size: int | None = None, **keys: str) -> None:
    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": path, "test_fraction": 0.4, "on_unreadable": "raise", **keys}
        params["methods"]["relational"].update(epochs=1)
        params["datasets"]["mine"] = {
            "source": source,
            "image_size": 24,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
        }
        if stored_size:
            params["datasets"]["mine"]["stored_size"] = stored_size
        params["protocols"]["embedding"].update(images=10, perplexity=2.0)

    write_params(project, change)


@pytest.mark.parametrize("protocol", METRICS)
def test_target_with_other_classes_size_and_normalization(pretrained: Path, rr: RunRr, protocol: str) -> None:
    write_image_folder(pretrained / "images", {"a": 10, "b": 10, "c": 10})
    use_target(pretrained, "images")
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    assert rr(*EXTRACT[:-1], "mine").code == 0
    outcome = rr(*EVALUATE[:-3], "--target", "mine", "--protocol", protocol)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((pretrained / FOLDER.parent / "mine" / protocol / "metrics.json").read_text())
    assert (metrics["test_images"], metrics["classes"]) == (12, 3)


def test_target_images_are_normalized_with_the_mean_and_std_of_the_target(pretrained: Path, rr: RunRr) -> None:
    write_image_folder(pretrained / "images", {"a": 10, "b": 10, "c": 10})
    use_target(pretrained, "images")
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    assert rr(*EXTRACT[:-1], "mine").code == 0
    assert rr(*EVALUATE[:-3], "--target", "mine", "--protocol", "knn").code == 0
    predicted = pq.read_table(pretrained / FOLDER.parent / "mine/knn/predictions.parquet")["confidence"].to_numpy()
    backbone = load_backbone(pretrained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors")
    config = KnnConfig(kind="knn", neighbors=5, temperature=0.1)

    def compute_confidence(mean: tuple, std: tuple) -> np.ndarray:
        features, labels = [], []
        for split in ("train", "test"):
            data = Beton(pretrained / f"data/beton/mine/{split}.beton", threads=1)
            pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
            normalized = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            features.append(backbone(normalized).numpy())
            labels.append(data.labels)
        return knn.predict_probabilities(features[0], labels[0], features[1], 3, config).max(1)

    assert np.allclose(predicted, compute_confidence((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), atol=1e-3)
    assert not np.allclose(predicted, compute_confidence(SHAPES.mean, SHAPES.std), atol=1e-3)


def test_non_finite_features_raise_and_keep_the_former_ones(
    pretrained: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in (pretrained / FEATURES).iterdir()}
    monkeypatch.setattr(
        extract_stage,
        "extract_features",
        lambda *arguments: extract_features(*arguments).index_fill_(0, torch.tensor([3]), torch.inf),
    )
    outcome = rr(*EXTRACT)
    assert outcome.code == 2
    assert "the backbone outputs NaN or infinite values for images in this split" in outcome.err
    assert {path.name: path.read_bytes() for path in (pretrained / FEATURES).iterdir()} == before


def test_extract_writes_the_features_of_both_splits(pretrained: Path) -> None:
    backbone = load_backbone(pretrained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors")
    for split in ("train", "test"):
        data = Beton(pretrained / f"data/beton/shapes/{split}.beton", threads=1)
        stored = read_features(pretrained / FEATURES / "features.safetensors", split)
        assert np.array_equal(stored.labels, data.labels)
        assert np.array_equal(stored.index, data.index)
        assert stored.features.dtype == np.float32
        pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
        assert stored.features == pytest.approx(backbone((pixels - 0.5) / 0.25).numpy(), abs=1e-4)


def test_protocol_without_features_raises(pretrained: Path, rr: RunRr) -> None:
    (pretrained / FEATURES / "features.safetensors").unlink()
    outcome = rr(*EVALUATE, "knn")
    assert outcome.code == 2
    assert f"{FEATURES}/features.safetensors is missing: run rr extract first" in outcome.err


@pytest.mark.parametrize("protocol", NUMPY_PROTOCOLS)
def test_numpy_protocols_do_not_load_torch(pretrained: Path, protocol: str) -> None:
    code = (
        "import sys\n"
        "from rr.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'numba', 'ffcv', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *EVALUATE, protocol], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def extract_own_images(project: Path, rr: RunRr, classes: dict[str, int]) -> None:
    write_image_folder(project / "images", classes)
    use_target(project, "images")
    for command in (("fetch", "--dataset", "mine"), ("convert", "--dataset", "mine"), (*EXTRACT[:-1], "mine")):
        assert rr(*command).code == 0


def evaluate_own_images(rr: RunRr, protocol: str) -> Outcome:
    return rr(*EVALUATE[:-3], "--target", "mine", "--protocol", protocol)


@pytest.mark.parametrize("protocol", METRICS)
def test_one_training_image_per_class_and_a_class_without_test_images(
    pretrained: Path, rr: RunRr, protocol: str
) -> None:
    """Class c has no test images, so neither the means over classes nor the true labels include it."""
    write_image_folder(pretrained / "images", {"a": 4, "b": 3, "c": 1})

    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "images", "test_fraction": 0.7}
        params["methods"]["relational"].update(epochs=1)
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source}
        params["protocols"]["knn"].update(neighbors=3)
        params["protocols"]["retrieval"].update(cutoffs=[1, 3])
        params["protocols"]["embedding"].update(images=10, perplexity=1.0)
        for name in ("linear", "finetune"):
            params["protocols"][name].update(label_fraction=None, images_per_class=1)

    write_params(pretrained, change)
    for command in (("fetch", "--dataset", "mine"), ("convert", "--dataset", "mine"), (*EXTRACT[:-1], "mine")):
        assert rr(*command).code == 0
    outcome = evaluate_own_images(rr, protocol)
    assert outcome.code == 0, outcome.err
    folder = pretrained / FOLDER.parent / "mine" / protocol
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["test_images"], metrics["classes"]) == (5, 3)
    assert all(np.isfinite(value) for value in metrics.values())
    table = pq.read_table(folder / "predictions.parquet")
    assert json.loads(table.schema.metadata[b"class_names"]) == ["a", "b", "c"]
    assert sorted(table["label"].to_pylist()) == [0, 0, 0, 1, 1]
    confusion = list(csv.DictReader((folder / "confusion.csv").open()))
    assert len(confusion) == (0 if protocol == "embedding" else 5)
    if "prediction" in table.column_names:
        is_correct = np.asarray(table["label"]) == np.asarray(table["prediction"])
        accuracies = [is_correct[np.asarray(table["label"]) == label].mean() for label in range(2)]
        assert metrics["balanced_accuracy"] == pytest.approx(np.mean(accuracies))
        assert metrics["worst_class_accuracy"] == min(accuracies)
        assert metrics["train_images"] == 3
    if protocol == "retrieval":
        assert metrics["hit_rate_at_3"] == metrics["recall_at_3"] == 1
        assert metrics["precision_at_3"] == metrics["reranked_precision_at_3"] == pytest.approx(1 / 3)


def test_target_without_labels_has_an_embedding_only(pretrained: Path, rr: RunRr) -> None:
    extract_own_images(pretrained, rr, {"train": 20, "test": 10})
    for protocol in set(METRICS) - {"embedding"}:
        outcome = evaluate_own_images(rr, protocol)
        assert outcome.code == 2
        assert (
            "mine cannot be a target, because its training images and test images have no labels: label some of them, "
            "or use only the embedding protocol, or remove mine from grid.target" in outcome.err
        )
    outcome = evaluate_own_images(rr, "embedding")
    assert outcome.code == 0, outcome.err
    folder = Path("runs/evaluate/shapes/conv4/relational/1/mine/embedding")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == [*METRICS["embedding"][1:], "test_images", "classes"]  # without the silhouette
    assert (metrics["images"], metrics["classes"]) == (10, 0)
    table = pq.read_table(folder / "predictions.parquet")
    assert table["label"].to_pylist() == [-1] * 10
    assert json.loads(table.schema.metadata[b"class_names"]) == []


@pytest.mark.parametrize(
    ("protocol", "stored_size"),
    [("linear", None), ("finetune", None), ("knn", None), ("retrieval", None), ("finetune", 30), ("retrieval", 30)],
)
def test_unlabeled_images_do_not_change_an_evaluation(
    pretrained: Path, rr: RunRr, protocol: str, stored_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocols that need labels give the same result as if the unlabeled images were deleted."""
    tested_positions = []

    def extract_and_record(*arguments: Any) -> torch.Tensor:
        tested_positions.append(arguments[-1])
        return extract_features(*arguments)

    monkeypatch.setattr("rr.evaluate.finetune.extract_features", extract_and_record)
    write_image_folder(pretrained / "images", {"train": 30, "test": 12})
    images = sorted((pretrained / "images").rglob("*.png"))
    labeled = [path for number, path in enumerate(images) if number % 3]  # also the last training and test images
    rows = [f"{path.relative_to(pretrained / 'images')},{'ab'[number % 2]}" for number, path in enumerate(labeled)]
    (pretrained / "labels.csv").write_text("\n".join(["file,label", *rows]))
    use_target(pretrained, "images", stored_size, labels="labels.csv")
    folder = pretrained / FOLDER.parent / "mine" / protocol
    results = []
    for _ in range(2):
        for command in (("fetch", "--dataset", "mine"), ("convert", "--dataset", "mine"), (*EXTRACT[:-1], "mine")):
            assert rr(*command).code == 0
        outcome = evaluate_own_images(rr, protocol)
        assert outcome.code == 0, outcome.err
        names = pq.read_table("data/beton/mine/index.parquet")["path"].to_numpy()
        table = pq.read_table(folder / "predictions.parquet")
        columns = {name: table[name].to_pylist() for name in table.column_names if name != "index"}
        if "neighbors" in columns:
            columns["neighbors"] = names[columns["neighbors"]].tolist()
        metrics = json.loads((folder / "metrics.json").read_text())
        examples = (folder / "examples.png").read_bytes()
        results.append((metrics, names[table["index"].to_numpy()].tolist(), columns, examples))
        for path in {*images} - {*labeled}:
            path.unlink(missing_ok=True)
    assert results[0][0]["test_images"] == 8
    if protocol == "finetune":  # the augmentation of an image depends on its position in the split
        assert results[0][1] == results[1][1]
        assert results[0][2]["label"] == results[1][2]["label"]
        # In the test split, the unlabeled images (4 of 12) come first.
        assert [positions.tolist() for positions in tested_positions] == [[*range(4, 12)], [*range(8)]]
        assert results[0][0]["train_images"] == results[1][0]["train_images"] == 20
    else:
        assert results[0] == results[1]


def test_copies_of_test_images_are_recorded(pretrained: Path, rr: RunRr) -> None:
    write_image_folder(pretrained / "images", {f"{split}/{name}": 6 for split in ("train", "test") for name in "ab"})
    shutil.copy(next((pretrained / "images/train/a").iterdir()), pretrained / "images/test/a/copy.png")
    use_target(pretrained, "images")
    for command in (("fetch", "--dataset", "mine"), ("convert", "--dataset", "mine"), (*EXTRACT[:-1], "mine")):
        assert rr(*command).code == 0
    outcome = evaluate_own_images(rr, "linear")
    assert outcome.code == 0, outcome.err
    assert json.loads((pretrained / FOLDER.parent / "mine/linear/run.json").read_text())["test_copies"] == 1


def test_target_with_one_class_raises(pretrained: Path, rr: RunRr) -> None:
    extract_own_images(pretrained, rr, {"cat": 20})
    outcome = evaluate_own_images(rr, "knn")
    assert outcome.code == 2
    assert "mine cannot be a target, because all of its test images belong to one class (cat)" in outcome.err
    assert not list(pretrained.glob("runs/evaluate/shapes/conv4/relational/1/mine/*/*"))


def test_damaged_weights_raise(pretrained: Path, rr: RunRr) -> None:
    weights = pretrained / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        load_backbone(weights)
    outcome = rr(*EVALUATE, "knn")
    assert outcome.code == 2
    assert "backbone.safetensors does not match its record" in outcome.err


def test_more_neighbors_than_training_images_raises(pretrained: Path, rr: RunRr) -> None:
    write_params(pretrained, lambda params: params["protocols"]["knn"].update(neighbors=500))
    outcome = rr(*EVALUATE, "knn")
    assert outcome.code == 2
    assert "protocols.knn.neighbors: 500 exceeds the number of labeled training images in shapes (200)" in outcome.err
    assert not list((pretrained / FOLDER).rglob("metrics.json"))


def test_unknown_protocol_raises(pretrained: Path, rr: RunRr) -> None:
    assert "did you mean 'knn'" in rr(*EVALUATE, "knnn").err
    assert not list((pretrained / FOLDER).rglob("metrics.json"))


def test_unlabeled_images_are_left_out_of_the_confusion_matrix() -> None:
    labels, predictions = np.array([0, -1, 1]), np.array([1, 1, 1])
    text = _format_true_and_predicted_csv(["cat", "dog"], labels, predictions)
    assert text == "label,prediction\ncat,dog\ndog,dog\n"
