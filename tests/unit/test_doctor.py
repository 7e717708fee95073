"""Tests of the checks of `rr doctor` that concern a project: its repository and its grid."""

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, write_params

from rr import doctor


@pytest.fixture
def repository(project: Path) -> Path:
    """Return the current folder, which contains params.yaml, dvc.yaml and the folder .dvc, but no git repository."""
    shutil.copy(ROOT / "dvc.yaml", project)
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", project / ".dvc")
    return project


def run_check(check: str, capsys: pytest.CaptureFixture[str]) -> str:
    doctor._run_check(getattr(doctor, f"_check_{check}"))
    return capsys.readouterr().out


def test_repository_needs_git_and_dvc(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check("repository", capsys) == (
        "FAIL  repository: this folder is not in a git repository, so DVC cannot run: run `git init`, or start from a "
        "clone of the project\n"
    )
    subprocess.run(["git", "init", "-q"], check=True)
    assert run_check("repository", capsys) == "ok    repository: git and DVC can be used in this folder\n"
    shutil.rmtree(".dvc")
    assert "FAIL  repository: the folder .dvc is missing, so DVC cannot run" in run_check("repository", capsys)


def test_subfolder_of_a_repository_fails(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    (repository / "copy").mkdir()
    monkeypatch.chdir(repository / "copy")
    assert f"FAIL  repository: DVC runs in {repository}: change to this folder" in run_check("repository", capsys)


def test_problems_of_the_grid_are_listed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check("grid", capsys) == "ok    grid: 2 pretraining runs, 4 evaluations\n"

    def use_unknown_images(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "images", "test_fraction": 0.2, "on_unreadable": "raise"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source}
        params["grid"]["data"].append("mine")

    write_params(project, use_unknown_images)
    assert run_check("grid", capsys).endswith("; not checked, because rr fetch has not run: mine\n")
    write_params(project, lambda params: params["protocols"]["knn"].update(neighbors=1000))
    lines = run_check("grid", capsys).splitlines()
    assert lines[0] == "FAIL  grid: it cannot be completed:"
    assert lines[1].startswith("      protocols.knn.neighbors: 1,000 exceeds")
    write_params(project, lambda params: params["grid"].update(seed=[]))
    assert run_check("grid", capsys).startswith("FAIL  grid: params.yaml: grid.seed: the list is empty")


def test_project_is_checked_only_in_a_project(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    monkeypatch.setattr(doctor, "_run_check", lambda check: names.append(check.__name__) or True)
    assert doctor.run_checks() == 0
    assert names[-2:] == ["_check_repository", "_check_grid"]
    (repository / "dvc.yaml").unlink()
    names.clear()
    assert doctor.run_checks() == 0
    assert names[-1] == "_check_disk"
