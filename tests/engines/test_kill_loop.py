"""Test kill_loop.py: a short run, and whether the watcher detects incomplete files."""

import json
from pathlib import Path

import pytest
from helpers import write_params
from kill_loop import KillResults, Watcher, leftover_files, outputs_by_run, read_outputs, run_kill_loop

from rr.runtime.hashing import file_sha256

BETON = Path("data/beton/shapes/train.beton")
RECORD = Path("data/beton/shapes/run.json")


@pytest.mark.engine
def test_killed_stages_produce_the_same_outputs(tmp_path: Path) -> None:
    results = run_kill_loop("rr", 6, 1, tmp_path / "kill_loop", kills_per_command=1)
    assert results.errors == []
    assert results.kills == 6  # in one run, unless a stage ended before it was killed
    assert results.killed_stages.keys() != {"no stage"}
    assert results.checks > 100


@pytest.fixture
def complete_project(tmp_path: Path) -> Path:
    """A folder in which all declared outputs exist."""
    write_params(tmp_path)
    for run_folder, files in outputs_by_run(tmp_path).items():
        for path in files:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"contents of {path}")
        hashes = {str(path): file_sha256(tmp_path / path) for path in files}
        (tmp_path / run_folder / "run.json").write_text(json.dumps({"outputs": hashes}))
    return tmp_path


def check(folder: Path, expected: dict[Path, bytes]) -> list[str]:
    """Let a new watcher check `folder` once, and return the errors."""
    results = KillResults()
    Watcher(folder, expected, results).check()
    return results.errors


def test_watcher_detects_an_incomplete_file_and_a_wrong_record(complete_project: Path) -> None:
    expected = read_outputs(complete_project)
    assert check(complete_project, expected) == []
    (complete_project / BETON).write_bytes(expected[BETON][:10])
    assert check(complete_project, expected) == [
        f"{BETON} was visible with other bytes (10 of {len(expected[BETON])} bytes)",
        f"{BETON} was visible next to a record of another file",
    ]
    (complete_project / BETON).unlink()
    assert check(complete_project, expected) == []  # a missing file is not incomplete
    (complete_project / RECORD).write_text('{"outp')
    assert check(complete_project, expected) == [f"{RECORD} was visible when incomplete (6 bytes)"]


def test_leftover_files_are_found(complete_project: Path) -> None:
    assert leftover_files(complete_project) == []
    for name in (
        "data/beton/shapes/.train.tmp.beton",
        "runs/resume/a/resume.previous.pt",
        ".rr/status/report/report.json",
    ):
        (complete_project / name).parent.mkdir(parents=True, exist_ok=True)
        (complete_project / name).touch()
        assert leftover_files(complete_project) == [name]
        (complete_project / name).unlink()
