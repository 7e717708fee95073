"""Tests of the checks of `rr doctor` that concern a project: its repository and its grid."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, RunRr, write_params

from rr import doctor
from rr.errors import UserError


@pytest.fixture
def repository(project: Path) -> Path:
    """Return the current folder, which contains params.yaml, dvc.yaml and a .dvc folder, but no git repository."""
    shutil.copy(ROOT / "dvc.yaml", project)
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", project / ".dvc")
    return project


def run_check(check: str) -> str:
    _, passed, message = doctor._run_check(getattr(doctor, f"_check_{check}"))
    return f"{'ok' if passed else 'FAIL'}: {message}"


def test_repository_needs_git_and_dvc(repository: Path) -> None:
    assert run_check("repository") == (
        "FAIL: this folder is not in a git repository, so DVC cannot run: run `git init`, or start from a "
        "clone of the project"
    )
    subprocess.run(["git", "init", "-q"], check=True)
    assert run_check("repository") == "ok: git and DVC can be used in this folder"
    shutil.rmtree(".dvc")
    assert "FAIL: the .dvc folder is missing, so DVC cannot run" in run_check("repository")


@pytest.mark.parametrize(("file", "message"), [("index", "index file corrupt"), ("HEAD", "not in a git repository")])
def test_damaged_git_repository_fails(repository: Path, file: str, message: str) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    (repository / ".git" / file).unlink(missing_ok=True)
    if file == "index":
        (repository / ".git/index").write_bytes(b"junk" * 25)
    result = run_check("repository")
    assert result.startswith("FAIL: ")
    assert message in result


@pytest.mark.parametrize("file", ["dvc.yaml", "dvc.lock"])
def test_damaged_pipeline_file_fails(repository: Path, file: str) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    Path(file).write_text("<<<<<<< HEAD\nstages:\n")
    assert "FAIL: DVC cannot run: " in run_check("repository")


def test_section_that_only_dvc_needs_is_named(project: Path) -> None:
    write_params(project, lambda params: params.pop("backbones"))
    assert run_check("grid") == "FAIL: params.yaml has no section backbones, which DVC needs: add `backbones: {}`"


def test_subfolder_of_a_repository_fails(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    (repository / "copy").mkdir()
    monkeypatch.chdir(repository / "copy")
    assert f"FAIL: DVC runs in {repository}: change to that folder" in run_check("repository")


@pytest.mark.parametrize("folder", ["data", "runs", "data/raw"])
def test_output_folder_must_not_be_a_link(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, folder: str
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    other = tmp_path_factory.mktemp("disk")
    Path(folder).parent.mkdir(exist_ok=True)
    Path(folder).symlink_to(other)
    assert f"FAIL: {folder} is a link to {other}, so DVC cannot store outputs in it" in run_check("repository")


def test_problems_of_the_grid_are_listed(project: Path) -> None:
    assert run_check("grid") == "ok: 2 pretraining runs, 4 evaluations"

    def use_unknown_images(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "images", "test_fraction": 0.2, "on_unreadable": "raise"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source}
        params["grid"]["data"].append("mine")

    (project / "images").mkdir()
    write_params(project, use_unknown_images)
    assert run_check("grid").endswith("; not checked before rr fetch has run: mine")
    write_params(project, lambda params: params["protocols"]["knn"].update(neighbors=1000))
    lines = run_check("grid").splitlines()
    assert lines[0] == "FAIL: it cannot be completed:"
    assert lines[1].startswith("      protocols.knn.neighbors: 1,000 exceeds")
    write_params(project, lambda params: params["grid"].update(seed=[]))
    assert run_check("grid").startswith("FAIL: params.yaml: grid.seed: the list is empty")


@pytest.mark.slow
def test_wrong_pixels_from_the_decoder_of_ffcv_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    def decode_nothing(*_: object) -> Callable[..., np.ndarray]:
        return lambda indices, output, metadata, storage: output[: len(indices)]

    assert run_check("ffcv") == "ok: writes and reads a beton"
    monkeypatch.setattr(SimpleRGBImageDecoder, "generate_code", decode_nothing)
    assert run_check("ffcv") == (
        "FAIL: images read from a beton differ from the images written to it: reinstall ffcv 1.0.2"
    )


def test_project_is_checked_only_in_a_project(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def pass_check(check: Callable[[], str]) -> doctor.CheckResult:
        names.append(check.__name__)
        return doctor.CheckResult(check.__name__, True, "")

    monkeypatch.setattr(doctor, "_run_check", pass_check)
    assert doctor.run_checks() == 0
    assert names[-2:] == ["_check_repository", "_check_grid"]
    (repository / "dvc.yaml").unlink()
    names.clear()
    assert doctor.run_checks() == 0
    assert names[-1] == "_check_disk"


def test_json_lists_the_results(project: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    def _check_ffcv() -> str:
        raise UserError("it is broken")

    monkeypatch.setattr(doctor, "_check_ffcv", _check_ffcv)
    outcome = rr("doctor", "--json")
    results = {result["name"]: result for result in json.loads(outcome.out)}
    assert outcome.code == 2
    assert results["python"] == {"name": "python", "passed": True, "message": sys.version.split()[0]}
    assert results["ffcv"] == {"name": "ffcv", "passed": False, "message": "it is broken"}
