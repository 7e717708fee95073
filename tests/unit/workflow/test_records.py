"""Tests for the record of a stage run: if the stage fails after it has written outputs, and if files have changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from rr.errors import UserError
from rr.runtime.atomic import write_text
from rr.runtime.hashing import file_sha256
from rr.workflow import verify
from rr.workflow.records import code_hashes, load_record, record_run
from rr.workflow.stage_runs import StageRun

FOLDER = Path("data/raw/mine")
OUTPUTS = [FOLDER / "a.txt", FOLDER / "b.txt"]
RUN = StageRun("fetch", FOLDER, {"key": 1}, [], OUTPUTS)


@pytest.fixture(autouse=True)
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder in which RUN has finished."""
    monkeypatch.chdir(tmp_path)
    with record_run(RUN):
        write_outputs("old")


def write_outputs(text: str) -> None:
    for path in OUTPUTS:
        write_text(path, text)


def read_folder() -> dict[str, str]:
    return {path.name: path.read_text() for path in FOLDER.iterdir()}


def test_record_describes_the_new_outputs() -> None:
    with record_run(RUN) as recorder:
        recorder.facts = {"images": 3}
        write_outputs("new")
    record = load_record(FOLDER)
    assert record["images"] == 3
    assert record["outputs"] == {str(path): file_sha256(path) for path in OUTPUTS}
    assert set(read_folder()) == {"a.txt", "b.txt", "run.json"}


@pytest.mark.parametrize("error", [UserError, ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_failed_run_keeps_the_former_outputs_and_their_record(error: type[BaseException]) -> None:
    before = read_folder()

    def write_and_fail() -> None:
        with record_run(RUN._replace(params={"key": 2})):
            write_outputs("new")
            raise error("failed")

    with pytest.raises(error):
        write_and_fail()
    assert read_folder() == before
    assert load_record(FOLDER)["params"] == {"key": 1}


def test_killed_run_keeps_the_former_outputs_and_their_record() -> None:
    before = read_folder()
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from test_records import *
with record_run(RUN):
    write_outputs("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    visible = {name: text for name, text in read_folder().items() if not name.startswith(".")}
    assert visible == before
    assert verify.describe_changed_files(RUN) == []
    with record_run(RUN):  # the next run removes the temporary files of the killed one
        write_outputs("newer")
    assert set(read_folder()) == {"a.txt", "b.txt", "run.json"}


def test_no_record_is_visible_while_the_outputs_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    replace, replaced = os.replace, []

    def check_and_replace(source: Path, target: Path) -> None:
        if target in OUTPUTS:
            assert not (FOLDER / "run.json").exists()
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", check_and_replace)
    with record_run(RUN):
        write_outputs("new")
    assert [path for path in replaced if path.parent == FOLDER] == [*OUTPUTS, FOLDER / "run.json"]
    assert json.loads((FOLDER / "run.json").read_text())["params"] == {"key": 1}


def edit_copy_of_rr(text: str) -> None:
    """Make the current folder a project whose rr/fetch.py ends with `text`."""
    shutil.copytree(ROOT / "rr", "rr", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", ".")
    with open("rr/fetch.py", "a") as module:
        module.write(text)


def test_run_matches_its_record_after_an_edit_of_a_comment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verify, "PACKAGE", tmp_path / "rr")
    edit_copy_of_rr("# a comment\n")
    assert verify.find_mismatches(RUN) == []
    edit_copy_of_rr("CONSTANT = 1\n")
    assert verify.find_mismatches(RUN) == ["rr/fetch.py (code of data/raw/mine) has changed since the run"]
    Path("rr/fetch.py").unlink()
    assert verify.find_mismatches(RUN) == ["rr/fetch.py (code of data/raw/mine) is missing"]


def test_missing_files_can_be_allowed_but_changed_files_cannot() -> None:
    first, second = OUTPUTS
    first.unlink()
    assert verify.find_mismatches(RUN) == [f"{first} (output of data/raw/mine) is missing"]
    assert verify.find_mismatches(RUN, allow_missing=True) == []
    assert verify.count_comparable_files([RUN, RUN]) == (2, 1)
    second.write_text("changed")
    expected = [f"{second} (output of data/raw/mine) has changed since the run"]
    assert verify.find_mismatches(RUN, allow_missing=True) == expected
    (FOLDER / "run.json").unlink()
    assert verify.find_mismatches(RUN, allow_missing=True) == []
    assert verify.count_comparable_files([RUN]) == (0, 3)  # without a record, the second file is not compared
    assert verify.find_mismatches(RUN) == ["data/raw/mine/run.json is missing: run rr fetch first"]


def test_files_that_only_the_run_or_only_its_record_lists_are_mismatches() -> None:
    first, second = OUTPUTS
    other = FOLDER / "c.txt"
    assert verify.find_mismatches(RUN._replace(outputs=[first, other])) == [
        f"{other} (output of data/raw/mine) is not in the record of the run",
        f"{second} (output of data/raw/mine) is in the record of the run but is no longer used",
    ]


def test_run_continues_only_if_the_project_has_the_code_of_the_running_rr() -> None:
    edit_copy_of_rr("# a comment\n")
    assert code_hashes("fetch") == load_record(FOLDER)["code"]
    edit_copy_of_rr("CONSTANT = 1\n")
    with pytest.raises(UserError, match=r"the code in this folder is different \(rr/fetch.py differs or is missing\)"):
        code_hashes("fetch")
