"""Tests that an absurd learning rate ends training with a message, and that failed measurements do not end it."""

import csv
from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from rr.errors import UserError
from rr.params import DynamicsConfig
from rr.paths import PretrainFolder
from rr.pretrain import Job, dynamics, loop, pretrain

DYNAMICS = DynamicsConfig(every_n_epochs=1, images=50)
REMEDY = "lower the method's learning_rate in params.yaml and run the command again"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.write_images(tmp_path_factory.mktemp("data") / "train.beton", 18)


def train(data: Path, folder: Path, name: str, learning_rate: float, precision: str = "float32") -> PretrainFolder:
    """Train on two mini-batches per epoch (one if the method drops the last one), and measure dynamics every epoch."""
    changes = {"clusters": 4} if name == "deepcluster" else {}
    config = golden.small_config(name, epochs=3, batch_size=16, learning_rate=learning_rate, **changes)
    outputs = PretrainFolder("shapes", "conv4", "method", 1, folder)
    dataset = golden.PARAMS.datasets["shapes"]
    job = Job(dataset, "conv4", config, 10, 1, precision, DYNAMICS, "test")
    pretrain(job, data, outputs, device="cpu", threads=1)
    return outputs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", golden.TRAINABLE)
def test_absurd_learning_rate_raises(data: Path, tmp_path: Path, name: str, precision: str) -> None:
    messages = []
    for learning_rate in (1e10, 1e15, 1e20, 1e37):
        folder = tmp_path / str(learning_rate)
        try:
            train(data, folder, name, learning_rate, precision)
        except UserError as error:  # any other exception fails the test
            messages.append(str(error))
        assert (folder / "backbone.safetensors").exists() == (learning_rate == 1e10 and not messages)
    assert len(messages) >= 3
    assert all(REMEDY in message for message in messages)


def read_history(outputs: PretrainFolder) -> list[dict[str, str]]:
    with open(outputs.history, newline="") as file:
        return list(csv.DictReader(file))


def fail(*_: object) -> float:
    raise torch.linalg.LinAlgError("the algorithm failed to converge")


def test_failed_measurement_leaves_cells_empty(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_history(train(data, tmp_path / "a", "vicreg", 1e-3))
    monkeypatch.setattr(dynamics, "effective_rank", fail)
    actual = read_history(train(data, tmp_path / "b", "vicreg", 1e-3))
    assert [row["effective_rank"] for row in actual] == [""] * 3
    message = "these learning dynamics could not be measured: knn_accuracy, effective_rank, rankme (the algorithm"
    assert message in capsys.readouterr().err
    for row in (*actual, *expected):
        del row["effective_rank"], row["rankme"]
    assert actual == expected


def test_features_that_are_not_finite_leave_cells_empty(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features can be infinite while the weights are still finite."""
    monkeypatch.setattr(dynamics, "extract_features", lambda *_: torch.full((18, 64), torch.inf))
    for row in read_history(train(data, tmp_path, "vicreg", 1e-3)):
        assert (row["knn_accuracy"], row["effective_rank"]) == ("", "")
        assert float(row["gradient_norm_backbone"]) > 0


def test_pseudo_labels_of_features_that_are_not_finite_raise(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "extract_features", lambda *_: torch.full((18, 64), torch.nan))
    with pytest.raises(UserError, match=f"a representation is NaN or infinite before epoch 1: {REMEDY}"):
        train(data, tmp_path, "deepcluster", 1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_empty_cells(value: float) -> None:
    assert loop.format_history([{"epoch": 1, "loss": 0.5, "information": value}]).splitlines()[1] == "1,0.5,"
