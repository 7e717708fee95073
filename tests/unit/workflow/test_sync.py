"""Tests for registering stage runs with DVC: one that a user started, and all with `rr sync`."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import DvcException
from dvc.lock import LockError
from helpers import ROOT, RunRr, write_params

import rr.fetch as rr_fetch
from rr.errors import UserError
from rr.workflow import sync
from rr.workflow.stage_runs import StageRun

FETCH = ("fetch", "--dataset", "shapes")
REGISTERED = ["data/raw/shapes"]


@pytest.fixture
def registered(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the folders of runs instead of registering the runs. The project looks like a DVC project."""
    write_params(project, lambda params: params["datasets"]["shapes"]["source"].update(train=20, test=10))
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", project)
    shutil.copytree(ROOT / "rr", project / "rr", ignore=shutil.ignore_patterns("__pycache__"))
    registered: list[str] = []

    def register(runs: Sequence[StageRun]) -> None:
        registered.extend(str(run.folder) for run in runs)

    monkeypatch.setattr(sync, "_register_with_dvc", register)
    return registered


def test_run_of_a_user_is_registered(registered: list[str], rr: RunRr) -> None:
    outcome = rr(*FETCH)
    assert outcome.code == 0
    assert "registering the run with DVC" in outcome.err
    assert registered == REGISTERED


@pytest.mark.parametrize("variable", ["DVC_STAGE", "RR_ENGINE"])
def test_run_of_an_engine_is_not_registered(
    variable: str, registered: list[str], rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "fetch@shapes")
    assert rr(*FETCH).code == 0
    assert registered == []


def test_run_with_other_parameters_is_not_registered(registered: list[str], rr: RunRr, project: Path) -> None:
    """DVC would register it with the parameters of params.yaml."""
    shutil.copy("params.yaml", "other.yaml")
    assert rr(*FETCH, "--params", "other.yaml").code == 0
    write_params(project, lambda params: params["datasets"].update(more=params["datasets"]["shapes"]))
    assert rr("fetch", "--dataset", "more").code == 0  # not in the grid
    shutil.rmtree(".dvc")
    write_params(project)
    assert rr(*FETCH).code == 0  # not a DVC project
    assert registered == []


def test_parameter_changed_during_the_run_prevents_its_registration(
    registered: list[str], rr: RunRr, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rr.data import raw

    write = raw.write

    def change_parameter_and_write(path: Path, dataset: object) -> object:
        write_params(project)
        return write(path, dataset)

    monkeypatch.setattr(raw, "write", change_parameter_and_write)
    assert rr(*FETCH).code == 0
    assert registered == []


def test_ctrl_c_during_the_registration_ends_the_command(
    registered: list[str], rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(runs: Sequence[StageRun]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "_register_with_dvc", interrupt)
    outcome = rr(*FETCH)
    assert (outcome.code, registered) == (130, [])
    assert "would rerun it (interrupted): run rr sync later" in outcome.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "dvc.lock"),
            "[Errno 2] No such file or directory: 'dvc.lock'",
        ),
        (
            UserError("DVC could not commit the outputs: Unable to acquire lock. See the manual.\n"),
            "DVC could not commit the outputs: Unable to acquire lock",
        ),
    ],
)
def test_failed_registration_is_reported_with_the_command_for_later(
    registered: list[str], rr: RunRr, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(runs: Sequence[StageRun]) -> None:
        raise error

    monkeypatch.setattr(sync, "_register_with_dvc", fail)
    outcome = rr(*FETCH)
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1] == (
        f"rr: DVC could not register this run and would rerun it ({message}): run rr sync later"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError("Invalid index file header"), "DVC could not commit the outputs: Invalid index file header"),
        (AssertionError(), "DVC could not commit the outputs: AssertionError"),
        (DvcException("see \x1b[36mthe manual\x1b[39m"), "DVC could not commit the outputs: see the manual"),
        (
            LockError(
                "'runs' is busy, it is being blocked by:\n  (PID 7): dvc repro\n\nIf there are no processes with such "
                "PIDs, you can manually remove '.dvc/tmp/rwlock' and try again."
            ),
            r"DVC is busy \(process 7, dvc repro\): wait until it has ended or, .* delete .dvc/tmp/rwlock",
        ),
    ],
)
def test_errors_of_dvc_and_its_libraries_are_user_errors(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail() -> None:
        raise error

    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.setattr("dvc.repo.Repo", fail)
    with pytest.raises(UserError, match=f"^{message}$"):
        sync._register_with_dvc([])


def test_damaged_git_index_is_named_as_the_cause(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("Invalid index file header")

    subprocess.run(["git", "init", "-q"], check=True)
    Path(".git/index").write_bytes(b"junk" * 25)
    monkeypatch.setattr("dvc.repo.Repo", fail)
    with pytest.raises(UserError, match=r"^git cannot be used in .*: (.|\n)*index file corrupt"):
        sync._register_with_dvc([])


def test_invalid_parameters_after_the_run_are_reported(
    registered: list[str], rr: RunRr, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = rr_fetch.fetch

    def fetch_and_edit(*arguments: Any) -> dict[str, Any]:
        facts = original(*arguments)
        (project / "params.yaml").write_text("seed: [1, 2,, 3]\n")
        return facts

    monkeypatch.setattr(rr_fetch, "fetch", fetch_and_edit)
    outcome = rr(*FETCH)
    assert (outcome.code, registered) == (0, [])
    assert "rr: DVC could not register this run and would rerun it (params.yaml is not valid YAML" in outcome.err


def test_missing_dvc_is_reported(registered: list[str], rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "find_spec", lambda name: None)
    outcome = rr(*FETCH)
    assert (outcome.code, registered) == (0, [])
    assert "rr: DVC could not register this run and would rerun it (rr sync: dvc cannot be imported" in outcome.err


def test_sync_registers_only_the_runs_that_match_their_records(registered: list[str], rr: RunRr) -> None:
    assert rr("sync").out == "sync: registered 0 of 11 runs; 11 have not run yet\n"
    rr(*FETCH)
    del registered[:]
    assert rr("sync").out == "sync: registered 1 of 11 runs; 10 have not run yet\n"
    assert registered == REGISTERED
    with open("data/raw/shapes/images.parquet", "ab") as file:
        file.write(b"0")
    del registered[:]
    assert rr("sync").out == (
        "sync: registered 0 of 11 runs; 10 have not run yet; `rr verify` shows why the others were not\n"
    )
    assert registered == []


def test_sync_of_another_parameter_file_raises(registered: list[str], rr: RunRr) -> None:
    """DVC would otherwise register runs with the parameters in params.yaml."""
    shutil.copy("params.yaml", "other.yaml")
    outcome = rr("sync", "--params", "other.yaml")
    assert (outcome.code, registered) == (2, [])
    assert "DVC reads only params.yaml, not other.yaml: omit --params, or unset RR_PARAMS" in outcome.err


def test_stage_that_dvc_starts_reads_only_params_yaml(
    project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("params.yaml", "other.yaml")
    monkeypatch.setenv("RR_PARAMS", "other.yaml")
    monkeypatch.setenv("DVC_STAGE", "fetch@shapes")
    outcome = rr(*FETCH)
    assert outcome.code == 2
    assert "DVC reads only params.yaml, but the environment variable RR_PARAMS is other.yaml: unset it" in outcome.err
    monkeypatch.delenv("RR_PARAMS")
    assert rr(*FETCH, "--params", "other.yaml").code == 0  # a user-defined stage may track this file


def test_sync_in_a_folder_with_other_code_than_the_running_rr_raises(registered: list[str], rr: RunRr) -> None:
    rr(*FETCH)
    del registered[:]
    with open("rr/fetch.py", "a") as module:
        module.write("CONSTANT = 1\n")
    outcome = rr("sync")
    assert outcome.code == 2
    assert "the code in this folder is different (rr/fetch.py differs or is missing)" in outcome.err
    assert registered == []
