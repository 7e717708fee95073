"""Test how labeled and validation images are chosen, and the protocols that use these images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_params

from rr.data.label_fraction import keep_label_fraction
from rr.errors import UserError
from rr.evaluate.labeled_rows import choose_labeled_rows, choose_validation_rows
from rr.evaluate.linear import train_and_predict
from rr.evaluate.protocol_checks import DatasetLabels, find_protocol_problem
from rr.params import LinearConfig, load_params

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 20, 5]))


def make_config(**values: object) -> LinearConfig:
    return LinearConfig(
        **{"kind": "linear", "epochs": 3, "batch_size": 8, "learning_rate": 0.01, "images_per_class": 4} | values
    )


def test_images_per_class() -> None:
    rows = {count: choose_labeled_rows(LABELS, make_config(images_per_class=count), seed=1) for count in (1, 4, 5)}
    for count, chosen in rows.items():
        assert np.bincount(LABELS[chosen]).tolist() == [count] * 3
        assert (np.diff(chosen) > 0).all()
    assert {*rows[1]} < {*rows[4]} < {*rows[5]}
    assert {*choose_labeled_rows(LABELS, make_config(), seed=2)} != {*rows[4]}


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_label_fraction_selects_the_images_of_keep_label_fraction(fraction: float) -> None:
    config = make_config(images_per_class=None, label_fraction=fraction)
    expected = np.flatnonzero(keep_label_fraction(LABELS, fraction, 3) >= 0)
    assert np.array_equal(choose_labeled_rows(LABELS, config, seed=3), expected)


def test_validation_images_are_a_fifth_of_each_class() -> None:
    labels = np.append(LABELS, [3, 4, 4])  # classes with one and with two images
    rows = choose_validation_rows(labels, 0.2, seed=0)
    assert np.bincount(labels[rows], minlength=5).tolist() == [10, 4, 1, 0, 1]
    assert np.array_equal(rows, choose_validation_rows(labels, 0.2, seed=0))
    assert not np.array_equal(rows, choose_validation_rows(labels, 0.2, seed=1))


def test_learning_rate_is_chosen_on_validation_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = torch.from_numpy(rng.normal(size=(200, 6)) + 3 * np.eye(3, 6)[labels]).float()

    def run(rates: float | list[float]) -> tuple[np.ndarray, dict[str, float]]:
        config = make_config(images_per_class=None, label_fraction=1.0, epochs=20, learning_rate=rates)
        return train_and_predict(features, labels, features, labels, config, num_classes=3, seed=5)

    rates = [1e-9, 0.02, 1e-8]
    probabilities, metrics = run(rates)
    # Train once per learning rate on the images that are not validation images.
    held_out = choose_validation_rows(labels, 0.2, seed=5)
    rest = np.setdiff1d(np.arange(200), held_out)
    accuracies = []
    for rate in rates:
        config = make_config(images_per_class=None, label_fraction=1.0, epochs=20, learning_rate=rate)
        predicted, _ = train_and_predict(
            features[rest], labels[rest], features[held_out], labels[held_out], config, num_classes=3, seed=5
        )
        accuracies.append((predicted.argmax(1) == labels[held_out]).mean())
    assert max(accuracies) == accuracies[1] > accuracies[0]
    assert metrics["learning_rate"] == 0.02
    assert metrics["validation_accuracy"] == pytest.approx(accuracies[1])
    assert metrics["validation_images"] == len(held_out)
    assert metrics["train_images"] == 200
    # After the choice, all images are used.
    expected, _ = run(0.02)
    assert np.array_equal(probabilities, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"images_per_class": 5}, None),
        (
            {"images_per_class": 6},
            "images_per_class: 6 exceeds the number of labeled training images in the smallest class of x",
        ),
        ({"learning_rate": [0.1, 0.01]}, None),
        (
            {"learning_rate": [0.1, 0.01], "images_per_class": 1},
            "learning_rate: choosing among several values requires a",
        ),
        (
            {"learning_rate": [0.1, 0.01], "images_per_class": None, "label_fraction": 0.02},
            "learning_rate: choosing among several values requires a",
        ),
    ],
)
def test_problems_are_found_before_the_training(changes: dict, expected: str | None) -> None:
    problem = find_protocol_problem("mine", make_config(**changes), "x", DatasetLabels(["a", "b", "c"], LABELS, LABELS))
    if expected is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.removeprefix("protocols.mine.").startswith(expected)


@pytest.mark.parametrize(
    ("protocol", "changes", "expected"),
    [
        *(
            (protocol, changes, f"protocols.{protocol}: set exactly one of label_fraction and images_per_class")
            for protocol in ("linear", "finetune")
            for changes in ({"images_per_class": 3}, {"label_fraction": None})
        ),
        *(
            ("linear", {"learning_rate": rate}, "protocols.linear.learning_rate: must be a positive number, or a list")
            for rate in ([0.1], "x")
        ),
    ],
)
def test_invalid_settings_raise(tmp_path: Path, protocol: str, changes: dict, expected: str) -> None:
    write_params(tmp_path, lambda params: params["protocols"][protocol].update(changes))
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
