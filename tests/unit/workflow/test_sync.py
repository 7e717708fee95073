"""Tests for registering a stage run, which a user started, with both engines."""

import shutil
from pathlib import Path

import pytest
from helpers import RunRr, write_params

from rr.errors import UserError
from rr.workflow import sync

FETCH = ("fetch", "--dataset", "shapes")
SNAKEMAKE = ["snakemake", "--touch", "--force", "--allowed-rules", "fetch", "--cores", "1", "--",
             "data/raw/shapes/images.parquet"]  # fmt: skip
DVC = ["dvc", "commit", "--force", "fetch@shapes"]


@pytest.fixture
def commands(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands of the engines, which are collected instead of run. The current folder looks like a DVC project."""
    write_params(project, lambda params: params["datasets"]["shapes"]["source"].update(train=20, test=10))
    (project / ".dvc").mkdir()
    shutil.copy(Path(__file__).parents[3] / "dvc.yaml", project)
    shutil.copytree(Path(__file__).parents[3] / "rr", project / "rr", ignore=shutil.ignore_patterns("__pycache__"))
    commands: list[list[str]] = []
    monkeypatch.setattr(sync, "_run_engine", lambda *command: commands.append([*command]))
    return commands


def test_run_of_a_user_is_registered_with_both_engines(commands: list[list[str]], rr: RunRr) -> None:
    outcome = rr(*FETCH)
    assert outcome.code == 0
    assert "registering the run with Snakemake and DVC" in outcome.err
    assert commands == [SNAKEMAKE, DVC]


@pytest.mark.parametrize("variable", ["DVC_STAGE", "RR_ENGINE"])
def test_run_of_an_engine_is_not_registered(
    variable: str, commands: list[list[str]], rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "fetch@shapes")
    assert rr(*FETCH).code == 0
    assert commands == []


def test_run_with_other_parameters_is_not_registered(commands: list[list[str]], rr: RunRr, project: Path) -> None:
    """Both engines would register it with the parameters of params.yaml."""
    shutil.copy("params.yaml", "other.yaml")
    assert rr(*FETCH, "--params", "other.yaml").code == 0
    write_params(project, lambda params: params["datasets"].update(more=params["datasets"]["shapes"]))
    assert rr("fetch", "--dataset", "more").code == 0  # not in the grid
    shutil.rmtree(".dvc")
    write_params(project)
    assert rr(*FETCH).code == 0  # not a DVC project
    assert commands == []


def test_parameter_changed_during_the_run_prevents_its_registration(
    commands: list[list[str]], rr: RunRr, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rr.data import raw

    write = raw.write

    def change_parameter_and_write(path: Path, dataset: object) -> object:
        write_params(project)
        return write(path, dataset)

    monkeypatch.setattr(raw, "write", change_parameter_and_write)
    assert rr(*FETCH).code == 0
    assert commands == []


def test_engine_that_fails_is_reported_with_the_command_for_later(
    commands: list[list[str]], rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(program: str, *arguments: str) -> None:
        if program == "snakemake":
            raise FileNotFoundError(2, "No such file or directory", "/bin/snakemake")
        raise UserError("`dvc` failed:\nERROR: failed to commit - Unable to acquire lock. See the manual.\n")

    monkeypatch.setattr(sync, "_run_engine", fail)
    outcome = rr(*FETCH)
    assert outcome.code == 0
    assert outcome.err.splitlines()[-2:] == [
        "rr: snakemake could not register this run and would repeat it ([Errno 2] No such file or directory: "
        f"'/bin/snakemake'); later, run: {' '.join(SNAKEMAKE)}",
        "rr: dvc could not register this run and would repeat it (failed to commit - Unable to acquire lock); later, "
        f"run: {' '.join(DVC)}",
    ]
