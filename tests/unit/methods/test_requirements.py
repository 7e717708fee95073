"""Tests of what the methods require of their images, without torch."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from golden import PARAMS, small_config

from rr.methods.requirements import find_training_problem, images_per_epoch
from rr.params import ExtensionConfig

TEN_CLASSES = np.arange(200) % 10
UNLABELED = np.full(200, -1)


def test_requirements_do_not_load_torch() -> None:
    modules = "rr.methods.requirements, rr.evaluate.protocol_checks, rr.workflow.machine_checks"
    code = f"import sys, {modules}, rr.workflow.grid_checks; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], text=True, capture_output=True).stdout == "False\n"


@pytest.mark.parametrize("name", PARAMS.methods)
def test_labeled_images_suit_every_method(name: str) -> None:
    assert find_training_problem(PARAMS.methods[name], TEN_CLASSES, 10) is None


@pytest.mark.parametrize("name", PARAMS.methods)
def test_methods_that_use_labels_reject_unlabeled_images(name: str) -> None:
    problem = find_training_problem(PARAMS.methods[name], UNLABELED, 0)
    if name in ("supervised", "relational-10"):
        assert problem
        assert "but 200 of 200 are unlabeled" in problem
        assert ("set the method's label_fraction to 0.0" in problem) == (name == "relational-10")
    elif name == "deepcluster":
        assert problem
        assert "set the method's clusters_per to dataset" in problem
    else:
        assert problem is None


@pytest.mark.parametrize("name", ["supervised", "relational-10"])
def test_methods_that_use_labels_reject_a_single_class(name: str) -> None:
    # The other class of the dataset has only test images.
    problem = find_training_problem(PARAMS.methods[name], np.ones(200, np.int64), 2)
    assert problem
    assert (
        "labeled training images from at least two classes, but the number of classes with such images is 1" in problem
    )
    problem = find_training_problem(PARAMS.methods[name], np.arange(200) % 3, 2)
    assert problem
    assert "the label 2 has no class name (the number of class names is 2)" in problem


def test_one_unlabeled_image_is_refused() -> None:
    problem = find_training_problem(small_config("supervised"), np.append(TEN_CLASSES, -1), 10)
    assert problem
    assert "but 1 of 201 are unlabeled" in problem


def test_relational_reasoning_uses_the_labels_that_exist() -> None:
    config = PARAMS.methods["relational-10"]
    labels = np.where(np.arange(200) % 4, -1, TEN_CLASSES)
    assert find_training_problem(config, labels, 10) is None
    assert "at least two classes, but the number of classes with such images is 1" in str(
        find_training_problem(config, np.minimum(labels, 0), 10)
    )
    assert "needs labeled training images, but 200 of 200 are unlabeled" in str(
        find_training_problem(config, UNLABELED, 10)
    )


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("relational", {"batch_size": 1}, "batch_size is 1 and the number of training images is 200: raise"),
        ("relational", {"batch_size": 199}, None),
        ("relational", {"batch_size": 199, "views": 2}, "the last mini-batch contains 1 of the 200 training images"),
        ("simclr", {"batch_size": 199}, "the method needs at least 2 images in every mini-batch: choose a different"),
        ("supervised", {"batch_size": 199, "views": 1}, "the last mini-batch contains 1"),
        ("supervised", {"batch_size": 199, "views": 2}, None),
        ("rotation", {"batch_size": 199}, None),
        ("infomax", {"batch_size": 199}, None),
        ("infomax", {"batch_size": 201}, "at least one full mini-batch, but batch_size is 201 and"),
        ("simclr", {"batch_size": 201}, None),
        ("deepcluster", {"clusters_per": "class", "clusters": 20}, None),
        ("deepcluster", {"clusters_per": "class", "clusters": 21}, "its 210 clusters, but the number of training"),
        ("deepcluster", {"clusters_per": "dataset", "clusters": 201}, "each of its 201 clusters"),
    ],
)  # fmt: skip
def test_sizes_of_mini_batches_and_clusters(name: str, changes: dict, problem: str | None) -> None:
    found = find_training_problem(small_config(name).model_copy(update=changes), TEN_CLASSES, 10)
    assert found is None if problem is None else problem in str(found)


def test_a_single_image_is_refused() -> None:
    problem = find_training_problem(small_config("simclr"), np.zeros(1, np.int64), 1)
    assert problem
    assert "the number of training images is 1: add training images" in problem


def test_only_infomax_drops_the_last_mini_batch() -> None:
    assert images_per_epoch(small_config("infomax").model_copy(update={"batch_size": 64}), 200) == 192
    assert images_per_epoch(small_config("simclr").model_copy(update={"batch_size": 64}), 200) == 200


@pytest.mark.parametrize("drop_last", [False, True])
def test_minimum_of_an_extension_applies_to_every_mini_batch(drop_last: bool) -> None:
    class Config(ExtensionConfig):
        min_batch_size: ClassVar[int] = 5

    Config.drop_last = drop_last
    config = Config.model_construct(kind="x:Y", batch_size=4, views=2, epochs=1)
    message = "a mini-batch must contain at least 5 images, but batch_size is 4 and the number of training images is"
    assert f"{message} 60: raise the method's batch_size" in (find_training_problem(config, np.zeros(60, int), 2) or "")
    config = config.model_copy(update={"batch_size": 8})
    assert "training images is 4: add training images" in (find_training_problem(config, np.zeros(4, int), 2) or "")
    assert find_training_problem(config, np.zeros(61, int), 2) is None
