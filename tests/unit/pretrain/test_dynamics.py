"""Tests of the measurements during training, which must not change its results."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PRETRAIN, ROOT, RunRr, write_params
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier

from rr import backbones, methods
from rr.backbones.weights import load_backbone
from rr.data.beton import Beton, write
from rr.methods.base import Method
from rr.params import DynamicsConfig, load_params
from rr.pretrain.dynamics import COLUMNS, DynamicsMonitor, gradient_norms, leave_one_out_knn_accuracy

RUN = "shapes/conv4/relational/1"


def read_history() -> list[dict[str, str]]:
    with open(f"runs/history/{RUN}.csv", newline="") as file:
        return list(csv.DictReader(file))


def build_method(name: str, **changes: object) -> Method:
    config = load_params(ROOT / "params.yaml").methods[name].model_copy(update=changes)
    return methods.build(config, backbones.build("conv4"), 10)


def knn_accuracy(x: np.ndarray, labels: np.ndarray) -> float:
    """Return the leave-one-out accuracy of scikit-learn's kNN classifier."""
    num_correct = 0
    for row in range(len(x)):
        others = np.arange(len(x)) != row
        reference = KNeighborsClassifier(
            20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.1)
        ).fit(x[others], labels[others])
        num_correct += reference.predict(x[row : row + 1])[0] == labels[row]
    return num_correct / len(x)


def test_measurements_do_not_change_weights(project_copy: Path, rr: RunRr) -> None:
    assert rr(*PRETRAIN).code == 0
    weights_file = project_copy / f"runs/pretrain/{RUN}/backbone.safetensors"
    weights, history = load_file(weights_file), read_history()
    assert "knn_accuracy" not in history[0]
    assert [int(row["views"]) for row in history] == [800, 1600, 2400]
    # 200 images with M = 32 and K = 4: six mini-batches of 32 images and one of 8.
    assert [int(row["pairs"]) for row in history] == [2400, 4800, 7200]

    write_params(project_copy, lambda params: params["dynamics"].update(every_n_epochs=2))
    assert rr(*PRETRAIN).code == 0
    assert all(torch.equal(value, weights[key]) for key, value in load_file(weights_file).items())
    measured = read_history()
    assert [{key: row[key] for key in history[0]} for row in measured] == history
    for column in COLUMNS:
        assert [row[column] == "" for row in measured] == [True, False, True]
        assert math.isfinite(float(measured[1][column]))


def test_last_measurement_is_that_of_the_final_weights(project_copy: Path, rr: RunRr) -> None:
    write_params(project_copy, lambda params: params["dynamics"].update(every_n_epochs=3, images=200))
    assert rr(*PRETRAIN).code == 0
    data = Beton(project_copy / "data/beton/shapes/train.beton", threads=1)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2) / 255
    backbone = load_backbone(project_copy / f"runs/pretrain/{RUN}/backbone.safetensors")
    with torch.no_grad():
        features = backbone((images - 0.5) / 0.25).numpy()
    measured = read_history()[-1]
    assert float(measured["knn_accuracy"]) == pytest.approx(knn_accuracy(features, data.labels), abs=0.006)
    for column, matrix in (("effective_rank", features - features.mean(0)), ("rankme", features)):
        shares = np.linalg.svd(matrix, compute_uv=False)
        shares /= shares.sum()
        assert float(measured[column]) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_unlabeled_images_have_no_knn_accuracy(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    write(tmp_path / "unlabeled.beton", images, np.full(60, -1), np.arange(60))
    method = build_method("relational").train()
    data = Beton(tmp_path / "unlabeled.beton", threads=1)
    dataset = load_params(ROOT / "params.yaml").datasets["shapes"]
    monitor = DynamicsMonitor(DynamicsConfig(every_n_epochs=1, images=50), data, dataset, 1, "cpu")
    values = monitor.measure(method)
    assert method.training
    assert math.isnan(values["knn_accuracy"])
    assert math.isnan(values["gradient_norm_head"])  # before the first step
    assert values["effective_rank"] > 1
    assert len(monitor.rows) == 50


def test_only_labeled_images_are_measured(tmp_path: Path) -> None:
    labels = np.where(np.arange(120) % 2, np.arange(120) % 5, -1)
    write(tmp_path / "half.beton", np.zeros((120, 32, 32, 3), np.uint8), labels, np.arange(120))
    data = Beton(tmp_path / "half.beton", threads=1)
    dataset = load_params(ROOT / "params.yaml").datasets["shapes"]
    for limit, count in ((50, 50), (100, 60)):
        monitor = DynamicsMonitor(DynamicsConfig(every_n_epochs=1, images=limit), data, dataset, 1, "cpu")
        assert (labels[monitor.rows] >= 0).all()
        assert len(set(monitor.rows)) == count


def test_knn_leave_one_out_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 120)
    x = (np.eye(4)[labels] + 0.7 * rng.normal(size=(120, 4))).astype(np.float32)
    assert leave_one_out_knn_accuracy(torch.from_numpy(x), labels) == pytest.approx(knn_accuracy(x, labels))


def test_gradient_norms_of_backbone_and_head() -> None:
    method = build_method("relational")
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    next(iter(method.backbone.parameters())).grad.view(-1)[:2] = torch.tensor([3.0, 4.0])
    list(method.parameters())[-1].grad.view(-1)[0] = -2.0
    assert gradient_norms(method) == (5.0, 2.0)


@pytest.mark.parametrize(("views", "images", "expected"), [(32, 64, 63_488), (4, 64, 768), (2, 64, 128), (4, 1, 6)])
def test_num_pairs_of_the_relational_method(views: int, images: int, expected: int) -> None:
    assert build_method("relational", views=views).count_pairs(images) == expected


def test_num_pairs_of_simclr_is_that_of_the_paper() -> None:
    assert build_method("simclr").count_pairs(128) == 65_536
