"""Fuzz test with records: a flipped bit in any artifact is detected, and the message names the file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corruption import DEFAULT_ROUNDS, flip_bit, rounds
from helpers import RunRr, enter_copy, write_params

from rr.params import load_params
from rr.workflow.verify import find_grid_mismatches

pytestmark = pytest.mark.slow

FLIPS = DEFAULT_ROUNDS // 2  # each round reads every file of the project
NOT_ARTIFACTS = (".rr", "params.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages have run."""
    folder = tmp_path_factory.mktemp("finished")

    def change(params: dict) -> None:
        params["grid"]["protocol"] = ["knn", "embedding"]
        params["datasets"]["shapes"]["source"].update(train=60, test=40)
        params["methods"]["relational"].update(epochs=1, views=2)
        params["protocols"]["embedding"]["images"] = 30

    write_params(folder, change)
    code = """
from pathlib import Path
from rr import commands
from rr.params import load_params
from rr.workflow import grid

path = Path("params.yaml")
params = load_params(path)
commands.run_fetch("shapes", None, path)
commands.run_convert("shapes", path)
for run in grid.pretrainings(params):
    commands.run_pretrain(run, "cpu", path)
for run in grid.extractions(params):
    commands.run_extract(run, "cpu", path)
for run in grid.evaluations(params):
    commands.run_evaluate(run, "cpu", path)
commands.run_report(path)
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    return folder


@pytest.fixture
def project_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the finished project and make the copy the current folder."""
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def list_artifacts(folder: Path) -> list[Path]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.parts[0] not in NOT_ARTIFACTS and "resume" not in path.parts)


def test_verify_detects_every_flipped_bit(project_copy: Path) -> None:
    params = load_params(Path("params.yaml"))
    assert not any(found for _, found in find_grid_mismatches(params))
    files = list_artifacts(project_copy)
    assert {path.name for path in files} == {
        "images.parquet", "train.beton", "test.beton", "index.parquet", "run.json", "1.csv", "views.png",
        "backbone.safetensors", "last_epoch.safetensors", "features.safetensors",
        "metrics.json", "predictions.parquet", "confusion.csv",
        "examples.png", "index.html", "report.md", "tables.tex", "results.parquet",
    }  # fmt: skip
    for number, rng in rounds("provenance", max(FLIPS, len(files))):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(flip_bit(content, rng))
        messages = [message for _, found in find_grid_mismatches(params) for message in found]
        assert any(str(path) in message for message in messages), f"round {number}: a change of {path} was not detected"
        path.write_bytes(content)
    assert not any(found for _, found in find_grid_mismatches(params))


def test_report_raises_if_a_file_has_changed(project_copy: Path, rr: RunRr) -> None:
    page = (project_copy / "report/index.html").read_bytes()
    files = [path for path in list_artifacts(project_copy) if path.parts[0] != "report"]
    for number, rng in rounds("report", FLIPS // 2):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(flip_bit(content, rng))
        outcome = rr("report")
        assert outcome.code == 2, f"round {number}: {path}"
        assert str(path) in outcome.err
        path.write_bytes(content)
    assert (project_copy / "report/index.html").read_bytes() == page
    assert rr("report").code == 0
    assert (project_copy / "report/index.html").read_bytes() == page


def test_report_needs_no_images_or_weights(project_copy: Path, rr: RunRr) -> None:
    shutil.rmtree(project_copy / "data")
    for weights in project_copy.rglob("backbone.safetensors"):
        weights.unlink()
    assert rr("report").code == 0
    assert "train.beton (input of runs/pretrain/shapes/conv4/relational/1) is missing" in rr("verify").err
