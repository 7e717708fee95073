"""Test stages that a user runs without an engine: both engines accept their outputs and do not rerun them."""

import fcntl
import json
from pathlib import Path

import numpy as np
import pytest
from engine_calls import call
from helpers import EVALUATE, EXTRACT, PRETRAIN, copy_project, keep_one_evaluation, write_params
from PIL import Image

pytestmark = pytest.mark.engine
IMAGES = Path("data/raw/shapes/images.parquet")


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local copy of a small dataset. Its name contains a space."""
    folder = tmp_path_factory.mktemp("local copy")
    rng = np.random.default_rng(0)
    for number in range(60):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return folder


def read_only_from_a_local_copy(params: dict) -> None:
    """Give the dataset a source path that does not exist, so that it can be read only with --from."""
    keep_one_evaluation(params)
    params["methods"]["relational"].update(epochs=1, views=2)
    params["datasets"]["shapes"].update(
        image_size=16, source={"kind": "imagefolder", "path": "nowhere", "test_fraction": 0.2, "on_unreadable": "raise"}
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, folder_of_images: Path) -> Path:
    """A project whose images a user has fetched from a local copy."""
    folder = copy_project(tmp_path_factory.mktemp("project"), read_only_from_a_local_copy)
    call(folder, "rr", "fetch", "--dataset", "shapes", "--from", str(folder_of_images))
    return folder


def test_engines_do_not_repeat_a_fetch_from_a_local_copy(project: Path, folder_of_images: Path) -> None:
    record = json.loads((project / "data/raw/shapes/run.json").read_text())
    assert record["local_copy"] == str(folder_of_images)
    images = (project / IMAGES).read_bytes()
    plan = call(project, "snakemake", "-n")
    assert "rule convert:" in plan
    assert "rule fetch:" not in plan
    assert "Stage 'fetch@shapes' didn't change, skipping" in call(project, "dvc", "repro", "convert@shapes")
    # If an engine is forced to run the stage, the stage reads the local copy again.
    dvc = ("dvc", "repro", "--force", "--single-item", "fetch@shapes")
    snakemake = ("snakemake", "--cores", "1", "--forcerun", "fetch", "--", str(IMAGES))
    assert f"reading the local copy {folder_of_images} again" in call(project, *dvc)
    # If the local copy no longer exists, the stage fails, but the images remain.
    moved = folder_of_images.rename(folder_of_images.with_name("moved"))
    try:
        output = call(project, *dvc, code=255)
        assert f"the local copy {folder_of_images}, named in data/raw/shapes/run.json, no longer exists" in output
        assert "nowhere is not a folder" in output
        assert "nowhere is not a folder" in call(project, *snakemake, code=1)
    finally:
        moved.rename(folder_of_images)
    assert (project / IMAGES).read_bytes() == images
    assert "fetch" not in call(project, "dvc", "status")
    assert "rule fetch:" not in call(project, "snakemake", "-n")


def test_engines_do_not_repeat_stages_that_a_user_has_run(project: Path) -> None:
    call(project, "snakemake", "--cores", "1", "data/beton/shapes/run.json")

    def change(params: dict) -> None:
        read_only_from_a_local_copy(params)
        params["datasets"]["shapes"]["image_size"] = 24

    write_params(project, change)  # Snakemake still has metadata with the old parameter
    call(project, "rr", "convert", "--dataset", "shapes")
    output = call(
        project, "torchrun", "--standalone", "--nproc-per-node", "2", "-m", "rr", *PRETRAIN, "--device", "cpu"
    )
    assert output.count("registering the run with DVC") == 1
    call(project, "rr", *EXTRACT)
    call(project, "rr", *EVALUATE, "knn")
    call(project, "rr", "report")
    assert "Data and pipelines are up to date." in call(project, "dvc", "status")
    assert "Nothing to be done" in call(project, "snakemake", "-n")
    write_params(project, read_only_from_a_local_copy)
    assert "rule convert:" in call(project, "snakemake", "-n")


def test_registration_with_a_locked_engine_prints_the_command_for_later(project: Path) -> None:
    write_params(project, read_only_from_a_local_copy)
    with open(project / ".dvc/tmp/lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        output = call(project, "rr", "fetch", "--dataset", "shapes", "--from", str(project / "data/copy"), code=2)
        assert "could not register" not in output
        output = call(project, "rr", "convert", "--dataset", "shapes")
    assert (
        "rr: DVC could not register this run and would rerun it (DVC is busy: Unable to acquire lock): run rr sync "
        "later"
    ) in output
    call(project, "rr", "sync")
    assert "convert" not in call(project, "dvc", "status")
