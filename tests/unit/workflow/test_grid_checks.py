"""Tests of the grid check before the first training run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import PRETRAIN, RunRr, add_dataset, write_params
from PIL import Image

from rr import paths
from rr.params import Params, load_params
from rr.workflow import suites
from rr.workflow.dataset_labels import find_dataset_labels
from rr.workflow.grid_checks import find_grid_problems
from rr.workflow.machine_checks import find_machine_problems


def load(project: Path, change: Callable[[dict], None] | None = None) -> Params:
    write_params(project, change)
    return load_params(project / "params.yaml")


def write_images(folder: Path, **classes: int) -> None:
    """Write images of different colors into a folder per class."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for position in range(count):
            Image.new("RGB", (16, 16), (10 * position, 80 * label, 0)).save(folder / name / f"{position}.png")


def use_own_images(params: dict) -> None:
    """Pretrain and evaluate on the images in the `images` folder."""
    source = {"kind": "imagefolder", "path": "images", "test_fraction": 0.25, "on_unreadable": "raise"}
    params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
    params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"], method=["relational"], protocol=["knn"])
    params["methods"]["relational"].update(epochs=1, batch_size=8)


def test_every_suite_can_be_completed(params_file: Path) -> None:
    for name in (path.stem for path in Path("workflow/suites").glob("*.yaml")):
        params = load_params(suites.merge_suites({name: suites.load_suite(name)}, params_file))
        assert find_grid_problems(params) == [], name
    assert find_grid_problems(load_params(params_file)) == []


@pytest.mark.parametrize(
    ("section", "name", "values", "problem"),
    [
        (
            "protocols",
            "knn",
            {"neighbors": 201},
            "protocols.knn.neighbors: 201 exceeds the number of labeled training images",
        ),
        (
            "methods",
            "relational",
            {"batch_size": 1},
            "relational cannot be trained on shapes, because a mini-batch",
        ),
        ("methods", "relational", {"views": 2, "batch_size": 199}, "because the last mini-batch contains 1 of the 200"),
        (
            "protocols",
            "linear",
            {"label_fraction": 0.01},
            "0.01 of the 200 labeled training images in shapes is less than",
        ),
    ],
)
def test_generated_images_are_checked_before_fetch(
    project: Path, section: str, name: str, values: dict, problem: str
) -> None:
    (found,) = find_grid_problems(load(project, lambda params: params[section][name].update(values)))
    assert problem in found


def test_problems_of_seeds_and_backbones_are_listed_once(project: Path) -> None:
    def change(params: dict) -> None:
        params["grid"].update(seed=[1, 2, 3], backbone=["conv4", "resnet8"])
        params["methods"]["relational"]["batch_size"] = 1
        params["protocols"]["knn"]["neighbors"] = 1000

    assert len(find_grid_problems(load(project, change))) == 2


def test_backbone_without_feature_maps_is_refused_for_infomax(project: Path) -> None:
    def change(params: dict) -> None:
        shared = {key: params["methods"]["relational"][key] for key in ("augmentation", "batch_size", "learning_rate")}
        params["methods"]["infomax"] = {"kind": "infomax", "views": 1, "epochs": 1, "prior_weight": 0.1, **shared}
        params["grid"].update(method=["infomax"], backbone=["conv4", "resnet18-cifar", "mobilenet_v3_small"])

    (problem,) = find_grid_problems(load(project, change))
    assert problem.startswith(
        "infomax cannot be trained on shapes, because the method needs the feature maps of the first layer, which the "
        "backbone mobilenet_v3_small does not provide: use one of conv4, resnet8, "
    )


def test_backbone_for_one_image_size_is_refused_for_targets_of_another(project: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["large"] = {**params["datasets"]["shapes"], "image_size": 64}
        params["grid"].update(data=["shapes", "large"], target=["shapes", "large"], backbone=["conv4", "convnext_tiny"])

    (problem,) = find_grid_problems(load(project, change))
    assert problem == (
        "convnext_tiny trained on shapes cannot be evaluated on large: the backbone is built for images of 32 x 32 "
        "pixels, but the image_size of large is 64: set the same image_size for both datasets in params.yaml"
    )


def test_backbone_that_does_not_accept_the_images_is_refused(project: Path) -> None:
    params = load(project, lambda params: params["grid"].update(backbone=["alexnet"], method=["relational"]))
    problems = find_machine_problems(params, "cpu")
    assert len(problems) == 1
    assert problems[0].startswith("the backbone alexnet cannot be used with images of 32 x 32 pixels (Given input size")


def test_unlabeled_images_of_stl10_are_known_before_fetch(project: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["stl10-unlabeled"] = {**params["datasets"]["shapes"], "source": {"kind": "stl10_unlabeled"}}
        names = ["stl10-unlabeled"]
        params["grid"].update(data=names, dataset=names, target=names, method=["supervised"])

    train, target = find_grid_problems(load(project, change))
    assert "supervised cannot be trained on stl10-unlabeled, because the method needs a label for every" in train
    assert "stl10-unlabeled cannot be a target, because its training images and test images have no" in target


def test_own_images_have_no_problem_until_they_are_known(project: Path, rr: RunRr) -> None:
    write_images(project / "images", cat=20)
    params = load(project, use_own_images)
    assert find_dataset_labels(params, "mine") is None
    assert find_grid_problems(params) == []
    assert rr("fetch", "--dataset", "mine").code == 0
    (problem,) = find_grid_problems(params)
    assert "mine cannot be a target, because all of its test images belong to one class (cat)" in problem
    # Images that were fetched with other parameters will be fetched again.
    params = load(project, lambda p: (use_own_images(p), p["datasets"]["mine"]["source"].update(test_fraction=0.5)))
    assert find_grid_problems(params) == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("moved", ""),
        ("~nouser/images", ""),
        ("$HOME/images", ": write a path, without variables and URLs"),
        ("file:///images", ": write a path, without variables and URLs"),
    ],
)
def test_new_path_of_fetched_images_must_exist(project: Path, rr: RunRr, path: str, hint: str) -> None:
    write_images(project / "images", cat=10, dog=10)
    load(project, use_own_images)
    assert rr("fetch", "--dataset", "mine").code == 0
    params = load(project, lambda p: (use_own_images(p), p["datasets"]["mine"]["source"].update(path=path)))
    (problem,) = find_grid_problems(params)
    assert problem == (
        f"mine cannot be fetched, because {path} does not exist: fix datasets.mine.source.path in params.yaml{hint}"
    )


def test_local_copy_replaces_a_missing_path(project: Path, rr: RunRr) -> None:
    write_images(project / "copy", cat=10, dog=10)
    load(project, use_own_images)
    assert rr("fetch", "--dataset", "mine", "--from", "copy").code == 0
    params = load(project, lambda p: (use_own_images(p), p["datasets"]["mine"]["source"].update(test_fraction=0.5)))
    assert find_grid_problems(params) == []
    shutil.rmtree(project / "copy")
    (problem,) = find_grid_problems(params)
    assert problem.startswith("mine cannot be fetched, because images does not exist")


def test_target_whose_test_images_are_mostly_training_images_is_refused(project: Path, rr: RunRr) -> None:
    write_images(project / "images/train", cat=8, dog=8)
    write_images(project / "images/test", cat=4, dog=4)
    params = load(project, use_own_images)
    assert rr("fetch", "--dataset", "mine").code == 0
    (problem,) = find_grid_problems(params)
    assert problem.startswith("mine cannot be a target, because 8 of its 8 test images have a copy in the training")
    for number in range(8):
        Image.new("RGB", (16, 16), (number, 2, 3)).save(project / f"images/test/cat/new{number}.png")
        assert rr("fetch", "--dataset", "mine").code == 0
        assert len(find_grid_problems(params)) == (number < 7)  # 8 of 15 images are too many, 8 of 16 are not


def test_labels_are_read_from_any_stage(project: Path, rr: RunRr) -> None:
    write_images(project / "images", cat=8, dog=12)
    params = load(project, use_own_images)
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    files = paths.DatasetPaths("mine")
    for removed in (None, files.images, paths.record_file(files.raw_dir)):
        if removed:
            removed.unlink()
        known = find_dataset_labels(params, "mine")
        assert known
        assert known.class_names == ["cat", "dog"]
        assert sorted(known.train_labels) == [0] * 6 + [1] * 9
        assert sorted(known.test_labels) == [0] * 2 + [1] * 3
    files.index.write_bytes(b"damaged")
    assert find_dataset_labels(params, "mine") is None


def test_unlabeled_target_is_refused_before_training(project: Path, rr: RunRr) -> None:
    write_images(project / "images")
    (project / "images").mkdir(exist_ok=True)
    for position in range(16):
        Image.new("RGB", (16, 16), (10 * position, 0, 0)).save(project / f"images/{position}.png")
    write_params(project, use_own_images)
    assert rr("fetch", "--dataset", "mine").code == 0
    arguments = ("--dataset", "mine", "--backbone", "conv4", "--method", "relational", "--seed", "1")
    problem = "mine cannot be a target, because its training images and test images have no labels"
    outcome = rr("convert", "--dataset", "mine")
    assert outcome.code == 2
    assert "the grid in params.yaml cannot be completed, so this stage was not started:\nmine cannot" in outcome.err
    assert problem in outcome.err
    assert not Path("data/beton").exists()
    # If the dataset is not a target, it can be converted. A run that is not in the grid is checked on its own.
    write_params(project, lambda params: (use_own_images(params), params["grid"].update(target=[])))
    assert rr("convert", "--dataset", "mine").code == 0
    assert rr("pretrain", *arguments).code == 0
    write_params(project, use_own_images)
    assert "matches its record" in rr("pretrain", *arguments).out
    shutil.rmtree("runs")
    outcome = rr("pretrain", *arguments)
    assert outcome.code == 2
    assert problem in outcome.err
    assert rr("pretrain", *arguments[:-1], "2").code == 0
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert "1 feature extraction and 1 evaluation\n" in outcome.out
    assert problem in outcome.err


def test_a_run_outside_the_grid_is_refused_for_its_own_problems(project: Path, rr: RunRr) -> None:
    write_images(project / "images", cat=20)
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    outcome = rr("pretrain", "--dataset", "mine", "--backbone", "conv4", "--method", "supervised", "--seed", "1")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith(
        "rr: supervised cannot be trained on mine, because the method needs labeled training images"
    )


def test_missing_file_of_an_imported_backbone_is_refused_before_training(project_copy: Path, rr: RunRr) -> None:
    def change(params: dict) -> None:
        params["methods"]["other"] = {"kind": "imported", "path": "other.safetensors", "sha256": 64 * "0"}
        params["grid"]["method"] = ["relational", "other"]

    write_params(Path(), change)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "methods.other: other.safetensors: no such file: create it with rr import" in outcome.err
    assert not Path("runs/pretrain").exists()
    Path("other.safetensors").write_bytes(b"other")
    assert "the SHA-256 of the file is " in rr(*PRETRAIN).err
