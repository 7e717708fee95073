"""Test unusual grids with both engines: without evaluations, and with targets that have no labels."""

from pathlib import Path

import pytest
from engine_calls import call
from helpers import copy_project
from PIL import Image

pytestmark = pytest.mark.engine
ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "2")}


def write_unlabeled_images(folder: Path) -> None:
    folder.mkdir()
    for number in range(16):
        Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(folder / f"{number}.png")


def add_unlabeled_images(params: dict, folder: Path) -> None:
    """Add the `mine` dataset, and reduce the grid to a single method."""
    source = {"kind": "imagefolder", "path": str(folder), "test_fraction": 0.25, "on_unreadable": "raise"}
    params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
    params["methods"]["relational"].update(epochs=1, views=2, batch_size=4)
    params["grid"].update(method=["relational"], protocol=["knn"])


@pytest.mark.parametrize("engine", ENGINES)
def test_unlabeled_images_can_be_used_without_a_target(tmp_path: Path, engine: str) -> None:
    write_unlabeled_images(tmp_path / "images")

    def change(params: dict) -> None:
        add_unlabeled_images(params, tmp_path / "images")
        params["grid"].update(data=["mine"], dataset=["mine"], target=[])

    (tmp_path / "project").mkdir()
    folder = copy_project(tmp_path / "project", change)
    call(folder, *ENGINES[engine])
    report = (folder / "report/report.md").read_text()
    assert "This grid has no evaluations, so the report shows only the pretraining runs." in report
    assert "relational on mine, conv4: [history, seed 1]" in report
    assert "every artifact matches its record" in call(folder, "rr", "verify")
    if engine == "snakemake":
        call(folder, "rr", "sync")
    assert "Data and pipelines are up to date." in call(folder, "dvc", "status")
    assert "Nothing to be done" in call(folder, "snakemake", "-n")


@pytest.mark.parametrize("engine", ENGINES)
def test_unlabeled_target_has_an_embedding(tmp_path: Path, engine: str) -> None:
    write_unlabeled_images(tmp_path / "images")

    def change(params: dict) -> None:
        add_unlabeled_images(params, tmp_path / "images")
        params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"], protocol=["embedding"])
        params["grid"].update(method=["random", "relational"])

    (tmp_path / "project").mkdir()
    folder = copy_project(tmp_path / "project", change)
    call(folder, *ENGINES[engine])
    report = (folder / "report/report.md").read_text()
    assert "The number of directions that the features of mine use (RankMe) is" in report
    assert "| random (lower bound) |" in report
    assert "every artifact matches its record" in call(folder, "rr", "verify")
    assert call(folder, "rr", "plan", "--views-per-second", "1000").count("mine cannot") == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_target_that_cannot_be_evaluated_is_refused_before_training(tmp_path: Path, engine: str) -> None:
    write_unlabeled_images(tmp_path / "images")

    def change(params: dict) -> None:
        add_unlabeled_images(params, tmp_path / "images")
        params["grid"].update(data=["shapes", "mine"], dataset=["shapes"], target=["shapes", "mine"])

    (tmp_path / "project").mkdir()
    folder = copy_project(tmp_path / "project", change)
    output = call(folder, *ENGINES[engine], code={"dvc": 255, "snakemake": 1}[engine])
    assert "mine cannot be a target, because its training images and test images have no labels" in output
    assert not (folder / "runs/pretrain").exists()
    assert not list((folder / "runs").rglob("*.pt"))
