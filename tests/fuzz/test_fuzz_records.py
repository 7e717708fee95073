"""A flipped bit anywhere between the raw pictures and the page is found, and named by its file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corruption import COUNT, flipped, rounds
from helpers import Rr, write_params

from rr.params import load
from rr.workflow.verify import grid_mismatches

FLIPS = COUNT // 2  # each reads every file of the project
NO_ARTEFACTS = (".rr", "params.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run."""
    folder = tmp_path_factory.mktemp("finished")

    def change(params: dict) -> None:
        params["grid"]["protocol"] = ["knn", "embedding"]
        params["datasets"]["shapes"]["source"].update(train=60, test=40)
        params["methods"]["relational"].update(epochs=1, views=2)
        params["protocols"]["embedding"]["images"] = 30

    write_params(folder, change)
    code = (
        "from pathlib import Path; from rr import stages, grid; from rr.params import load\n"
        "where = Path('params.yaml'); params = load(where)\n"
        "stages.fetch('shapes', None, where); stages.convert('shapes', where)\n"
        "for run in grid.pretrainings(params): stages.pretrain(*vars(run).values(), 'cpu', where)\n"
        "for score in grid.evaluations(params):\n"
        "    stages.evaluate(*vars(score.pretraining).values(), score.target, score.protocol, 'cpu', where)\n"
        "stages.report(where)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def artefacts(folder: Path) -> list[Path]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.parts[0] not in NO_ARTEFACTS)


def test_every_flipped_bit_is_found(place: Path) -> None:
    params = load(Path("params.yaml"))
    assert grid_mismatches(params) == []
    files = artefacts(place)
    kinds = {path.name for path in files}
    assert kinds == {
        "images.parquet", "train.beton", "test.beton", "index.parquet", "backbone.safetensors", "1.csv", "views.png",
        "metrics.json", "predictions.parquet", "confusion.csv", "examples.png", "index.html", "report.md", "tables.tex",
        "results.parquet", "run.json",
    }  # fmt: skip
    for number, chance in rounds("provenance", max(FLIPS, len(files))):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(flipped(content, chance))
        found = grid_mismatches(params)
        assert any(str(path) in line for line in found), f"round {number}: {path} was changed, and nobody noticed"
        path.write_bytes(content)
    assert grid_mismatches(params) == []


def test_no_report_of_what_does_not_verify(place: Path, rr: Rr) -> None:
    page = (place / "report/index.html").read_bytes()
    files = [path for path in artefacts(place) if path.parts[0] != "report"]
    for number, chance in rounds("report", FLIPS // 2):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(flipped(content, chance))
        outcome = rr("report")
        assert outcome.code == 2, f"round {number}: {path}"
        assert str(path) in outcome.err
        path.write_bytes(content)
    assert (place / "report/index.html").read_bytes() == page
    assert rr("report").code == 0
    assert (place / "report/index.html").read_bytes() == page


def test_a_report_needs_no_pictures_and_weights(place: Path, rr: Rr) -> None:
    shutil.rmtree(place / "data")
    for weights in place.rglob("backbone.safetensors"):
        weights.unlink()
    assert rr("report").code == 0
    assert "train.beton is missing" in rr("verify").err
