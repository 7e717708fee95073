"""What is measured during training, and that measuring changes nothing."""

import csv
import math

import numpy as np
import pytest
import torch
from helpers import PRETRAIN, RunRr, write_params
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from rr import methods
from rr.params import load_params
from rr.pretrain.dynamics import gradient_norms, knn_leave_one_out

CELL = "shapes/conv4/relational/1"


def history(folder) -> list[dict[str, str]]:
    with open(folder / f"runs/history/{CELL}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def ready(converted_project, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(converted_project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_measuring_changes_no_weight_and_fills_the_epochs_that_are_due(ready, rr: RunRr) -> None:
    assert rr(*PRETRAIN).code == 0
    weights = ready / f"runs/pretrain/{CELL}/backbone.safetensors"
    plain, without = load_file(weights), history(ready)
    assert "knn_accuracy" not in without[0]
    assert [int(row["views"]) for row in without] == [800, 1600, 2400]
    # 200 pictures, M = 32, K = 4: six mini-batches and one of 8.
    assert [int(row["pairs"]) for row in without] == [2400, 4800, 7200]

    write_params(ready, lambda params: params["dynamics"].update(every_n_epochs=2))
    assert rr(*PRETRAIN).code == 0
    measured = load_file(weights)
    assert all(torch.equal(value, measured[key]) for key, value in plain.items())
    found = history(ready)
    assert [{key: row[key] for key in without[0]} for row in found] == without
    for column in ("knn_accuracy", "effective_rank", "gradient_norm_backbone", "gradient_norm_head"):
        assert [row[column] == "" for row in found] == [True, False, True]
        assert math.isfinite(float(found[1][column]))
    assert 1 < float(found[1]["effective_rank"]) < 64
    assert 0 <= float(found[1]["knn_accuracy"]) <= 1


def test_unlabelled_pictures_have_no_knn_accuracy(ready, rr: RunRr) -> None:
    from rr.data.beton import Beton, write
    from rr.params import DynamicsConfig
    from rr.pretrain.dynamics import DynamicsMonitor

    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    write(ready / "unlabelled.beton", images, np.full(60, -1), np.arange(60))
    params = load_params(ready / "params.yaml")
    method = methods.build(params.methods["relational"], network(), 0, 60)
    data = Beton(ready / "unlabelled.beton", threads=1)
    observer = DynamicsMonitor(DynamicsConfig(every_n_epochs=1, images=50), data, params.datasets["shapes"], 1, "cpu")
    method.train()
    found = observer.measure(method)
    assert method.training
    assert math.isnan(found["knn_accuracy"])
    assert math.isnan(found["gradient_norm_head"])  # nothing was trained yet
    assert found["effective_rank"] > 1
    assert len(observer.rows) == 50


def network() -> nn.Module:
    from rr import backbones

    return backbones.build("conv4")


def test_each_picture_is_named_by_the_others() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 120)
    x = (np.eye(4)[labels] + 0.7 * rng.normal(size=(120, 4))).astype(np.float32)
    right = 0
    for left_out in range(120):
        others = np.arange(120) != left_out
        oracle = KNeighborsClassifier(
            20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.1)
        ).fit(x[others], labels[others])
        right += oracle.predict(x[left_out : left_out + 1])[0] == labels[left_out]
    assert knn_leave_one_out(torch.from_numpy(x), torch.from_numpy(labels)) == pytest.approx(right / 120)


def test_gradients_are_summed_by_side(ready) -> None:
    params = load_params(ready / "params.yaml")
    method = methods.build(params.methods["relational"], network(), 10, 100)
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    next(iter(method.backbone.parameters())).grad.view(-1)[:2] = torch.tensor([3.0, 4.0])
    list(method.parameters())[-1].grad.view(-1)[0] = -2.0
    assert gradient_norms(method) == (5.0, 2.0)


@pytest.mark.parametrize(("views", "images", "expected"), [(32, 64, 63_488), (4, 64, 768), (2, 64, 128), (4, 1, 6)])
def test_pairs_of_relational_reasoning(ready, views: int, images: int, expected: int) -> None:
    settings = load_params(ready / "params.yaml").methods["relational"].model_copy(update={"views": views})
    assert methods.build(settings, network(), 10, 100).count_pairs(images) == expected


def test_pairs_of_simclr_as_the_paper_counts_them() -> None:
    from helpers import ROOT

    settings = load_params(ROOT / "params.yaml").methods["simclr"]
    assert methods.build(settings, network(), 10, 100).count_pairs(128) == 65_536
