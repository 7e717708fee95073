"""A few of the kills that `python tests/engines/kill_loop.py` makes by the dozen; and its watcher sees what it looks for."""

import json
from pathlib import Path

import pytest
from helpers import write_params
from kill_loop import Findings, Watcher, contents, leftovers, outputs, torture

from rr.runtime.hashing import sha256

BETON = Path("data/beton/shapes/train.beton")
RECORD = Path("data/beton/shapes/run.json")


@pytest.mark.engine
def test_killed_stages_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    findings = torture("rr", 5, 1, tmp_path / "here", each=1)
    assert findings.wrong == []
    assert findings.kills == 5
    assert findings.runs == 1  # a kill for each of its five stages
    assert findings.looks > 100


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A folder in which every declared output is there."""
    write_params(tmp_path)
    for cell, files in outputs(tmp_path).items():
        for path in files:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"all of {path}")
        hashes = {str(path): sha256(tmp_path / path) for path in files}
        (tmp_path / cell / "run.json").write_text(json.dumps({"outputs": hashes}))
    return tmp_path


def looked(folder: Path, expected: dict[Path, bytes]) -> list[str]:
    findings = Findings()
    Watcher(folder, expected, findings).look()
    return findings.wrong


def test_the_watcher_sees_half_a_file_and_a_record_of_another(complete: Path) -> None:
    expected = contents(complete)
    assert looked(complete, expected) == []
    half = expected[BETON][:10]
    (complete / BETON).write_bytes(half)
    assert looked(complete, expected) == [
        f"{BETON} was visible with other bytes (10 of {len(expected[BETON])} bytes)",
        f"{BETON} was visible beside a record of another file",
    ]
    (complete / BETON).unlink()
    assert looked(complete, expected) == []  # what is not there is not half there
    (complete / RECORD).write_text('{"outp')
    assert looked(complete, expected) == [f"{RECORD} was visible half written (6 bytes)"]


def test_what_is_left_is_named(complete: Path) -> None:
    assert leftovers(complete) == []
    for name in (
        "data/beton/shapes/.train.tmp.beton",
        "runs/resume/a/resume.previous.pt",
        ".rr/status/report/report.json",
    ):
        (complete / name).parent.mkdir(parents=True, exist_ok=True)
        (complete / name).touch()
        assert leftovers(complete) == [name]
        (complete / name).unlink()
