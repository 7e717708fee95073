"""Test the target and protocol checks that `rr evaluate` and the grid check share."""

import json

import numpy as np
import pytest
from helpers import SMALL_PARAMS
from pydantic import TypeAdapter

from rr.evaluate.protocol_checks import DatasetLabels, find_protocol_problem, find_target_problem
from rr.params import ProtocolConfig

NAMES = ["cat", "dog", "newt"]
TRAIN, TEST = np.arange(60) % 3, np.arange(30) % 3


def target_problem(train: object, test: object, names: list[str] | None = None) -> str:
    labels = DatasetLabels(NAMES if names is None else names, np.array(train), np.array(test))
    return str(find_target_problem("mine", labels))


def protocol_problem(name: str, train: np.ndarray = TRAIN, test: np.ndarray = TEST, **changes: object) -> str | None:
    values = {**SMALL_PARAMS["protocols"][name], **changes}  # type: ignore[dict-item]
    config = TypeAdapter(ProtocolConfig).validate_json(json.dumps(values))
    return find_protocol_problem(name, config, "mine", DatasetLabels(NAMES, train, test))


def test_labeled_images_of_several_classes_suit_every_protocol() -> None:
    assert find_target_problem("mine", DatasetLabels(NAMES, TRAIN, TEST)) is None
    for name in SMALL_PARAMS["protocols"]:
        assert protocol_problem(name) is None


def test_splits_without_labels_are_refused() -> None:
    assert target_problem([-1, -1], [-1], []) == (
        "mine cannot be a target, because its training images and test images have no labels: label some of them, or "
        "use only the embedding protocol, or remove mine from grid.target in params.yaml"
    )
    assert "because its training images have no labels" in target_problem([-1, -1], [0, 1, 2])
    assert "because its test images have no labels" in target_problem([0, 1, 2], [-1])


def test_unlabeled_images_are_ignored_if_others_have_labels() -> None:
    train, test = np.append(TRAIN, [-1] * 50), np.append(TEST, [-1])
    for name in SMALL_PARAMS["protocols"]:
        assert protocol_problem(name, train, test) is None
    assert "of one class" not in target_problem([0, 1, -1], [0, -1, 1])
    assert "belong to one class" in target_problem([0, 1, -1], [0, -1, 0])
    num_labeled = len(TRAIN)
    problem = str(protocol_problem("knn", train, test, neighbors=num_labeled + 1))
    assert f"exceeds the number of labeled training images in mine ({num_labeled})" in problem


@pytest.mark.parametrize(("train", "test"), [([1, 1], [1, 1]), ([0, 1, 2], [1, 1, 1]), ([0, 1, 2], [1])])
def test_test_images_of_one_class_are_refused(train: list[int], test: list[int]) -> None:
    problem = target_problem(train, test)
    assert "all of its test images belong to one class (dog), so the results would be meaningless" in problem


def test_label_without_class_name_is_refused() -> None:
    problem = target_problem([0, 1, 2], [0, 3])
    assert "the label 3 has no class name (the number of class names is 3): fix the source" in problem
    assert "the label 4 has no class name" in target_problem([0, 4], [0, 1])


def test_class_without_training_images_is_refused() -> None:
    assert "some classes in the test split have no training images: dog, newt. Add training images" in target_problem(
        [0, 0], [0, 1, 2]
    )
    names = [f"class{number:02}" for number in range(30)]
    assert "class10 and 19 more. Add" in target_problem([0, 0], np.arange(30), names)
    assert target_problem([0, 1, 2], [0, 1]) == "None"  # a class without test images


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("knn", {"neighbors": 60}, None),
        (
            "knn",
            {"neighbors": 61},
            "protocols.knn.neighbors: 61 exceeds the number of labeled training images in mine (60)",
        ),
        ("retrieval", {"cutoffs": [60]}, None),
        (
            "retrieval",
            {"cutoffs": [61, 1]},
            "protocols.retrieval.cutoffs: 61 exceeds the number of labeled training images",
        ),
        ("linear", {"label_fraction": 0.05}, None),
        (
            "linear",
            {"label_fraction": 0.04},
            "protocols.linear.label_fraction: 0.04 of the 60 labeled training images in mine is less",
        ),
        (
            "finetune",
            {"label_fraction": 0.04},
            "is less than one image for each of the 3 classes: raise it in params.yaml",
        ),
        ("linear", {"label_fraction": None, "images_per_class": 20}, None),
        ("finetune", {"label_fraction": None, "images_per_class": 20}, None),
        (
            "finetune",
            {"label_fraction": None, "images_per_class": 21},
            "protocols.finetune.images_per_class: 21 exceeds the number of labeled training images in the smallest "
            "class of mine (20): lower this number in params.yaml",
        ),
        ("finetune", {"batch_size": 1}, "finetuning needs mini-batches of at least two images, got 1"),
        ("embedding", {"perplexity": 1000.0}, None),
    ],
)
def test_limits_of_protocols(name: str, changes: dict, problem: str | None) -> None:
    found = protocol_problem(name, **changes)
    assert found is None if problem is None else problem in str(found)


def test_only_the_embedding_needs_no_labels() -> None:
    unlabeled = np.full(60, -1)
    for name in SMALL_PARAMS["protocols"]:
        problem = protocol_problem(name, unlabeled, unlabeled)
        assert problem is None if name == "embedding" else "have no labels" in str(problem)
    assert protocol_problem("embedding", unlabeled, unlabeled[:4]) is None
    problem = protocol_problem("embedding", unlabeled, unlabeled[:3])
    assert problem == (
        "protocols.embedding.images: needs at least 4 test images, but mine has 3: add images, or remove embedding "
        "from grid.protocol"
    )
