"""`rr status`: what runs here and how far it is; what failed, was interrupted or killed stays to be seen."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import EVALUATE, PRETRAIN, Rr, write_params

from rr.errors import UserError
from rr.runtime import progress, status
from rr.runtime.progress import Progress

FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
FILE = Path(".rr/status/pretrain/shapes/conv4/relational/1.json")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only() -> dict:
    (job,) = status.jobs()
    return job


def test_a_stage_is_shown_while_it_runs_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status.jobs() == []
    assert status.shown(as_json=False) == "status: nothing runs here, and nothing was interrupted"
    monkeypatch.setattr(status, "SECONDS_BETWEEN_BEATS", 0.0)
    with status.showing("pretrain", FOLDER):
        job = only()
        assert (job["stage"], job["names"], job["state"]) == (
            "pretrain",
            ["shapes", "conv4", "relational", "1"],
            "running",
        )
        with Progress("pretrain", total=2000, unit="views", done=500) as running:
            assert (only()["percent"], only()["seconds_left"]) == (25, None)
            running.advance(1000, "epoch 3/4, loss 0.1")
            job = only()
            assert (job["percent"], job["unit"], job["note"]) == (75, "views", "epoch 3/4, loss 0.1")
            assert job["rate"] > 0
            assert job["seconds_left"] == pytest.approx(500 / job["rate"], rel=0.5)
            head, line = status.shown(as_json=False).splitlines()
            assert head.split() == ["stage", "of", "state", "done", "rate", "left", "seen"]
            assert line.startswith("pretrain  shapes conv4 relational 1  running  75 %")
            assert line.endswith("ago  epoch 3/4, loss 0.1")
            assert json.loads(status.shown(as_json=True)) == status.jobs()
    assert status.jobs() == []
    assert [path for path in Path(".rr").rglob("*") if path.is_file()] == []


def test_stages_of_other_names_stand_beside_each_other() -> None:
    code = """
import os
from pathlib import Path
from rr import status
with status.showing("evaluate", Path("runs/evaluate/a/conv4/b/1/a/knn")):
    os.kill(os.getpid(), 9)
"""
    with status.showing("report", Path("report")):
        subprocess.run([sys.executable, "-c", code])
        assert [(job["stage"], job["names"], job["state"]) for job in status.jobs()] == [
            ("evaluate", ["a", "conv4", "b", "1", "a", "knn"], "stopped"),
            ("report", [], "running"),
        ]


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (UserError("the loss is nan: lower the rate\nor the other"), "failed", "the loss is nan: lower the rate"),
        (OSError(28, "No space left", "x.beton"), "failed", "no space left on the disk at x.beton"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (SystemExit(143), "interrupted", "terminated"),
        (SystemExit(138), "interrupted", "stopped ahead of a limit"),
    ],
)
def test_what_failed_stays_with_its_message(error: BaseException, state: str, told: str) -> None:
    def fail() -> None:
        with status.showing("pretrain", FOLDER):
            raise error

    with pytest.raises(type(error)):
        fail()
    assert only()["state"] == state
    assert told in only()["error"]
    assert told in status.shown(as_json=False)
    assert len(status.shown(as_json=False).splitlines()) == 2
    with status.showing("pretrain", FOLDER):
        assert only()["state"] == "running"
    assert status.jobs() == []


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "running"),
        ({"born": "1"}, "stopped"),  # the number of a process that is over belongs to another now
        ({"pid": 2**22 + 1}, "stopped"),
        ({"host": "another"}, "elsewhere"),
    ],
)
def test_whether_a_process_lives(change: dict, state: str) -> None:
    with status.showing("pretrain", FOLDER):
        FILE.write_text(json.dumps(json.loads(FILE.read_text()) | change))
        assert only()["state"] == state


@pytest.mark.parametrize("content", ["", '{"stage": "pre', "[]", "null", "{}"])
def test_a_file_that_a_power_cut_has_spoilt_is_a_stopped_stage(content: str) -> None:
    FILE.parent.mkdir(parents=True)
    FILE.write_text(content)
    job = only()
    assert (job["stage"], job["names"], job["state"]) == ("pretrain", ["shapes", "conv4", "relational", "1"], "stopped")
    assert "stopped" in status.shown(as_json=False)


def test_a_stage_goes_on_where_its_progress_cannot_be_written() -> None:
    Path(".rr").write_text("in the way")
    with status.showing("pretrain", FOLDER), Progress("pretrain", 10, "views") as running:
        running.advance(10)


def test_progress_is_written_every_few_seconds_and_not_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = [0.0], []
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(status, "_write", lambda content: written.append(content.get("percent")))
    with status.showing("pretrain", FOLDER), Progress("pretrain", 1000, "views") as running:
        for _ in range(1000):
            clock[0] += 0.01
            running.advance(1)
    assert len(written) == 2 + int(10 / status.SECONDS_BETWEEN_BEATS)  # two of them at the start


def test_a_killed_training_and_one_whose_loss_is_no_number_are_shown(converted: Path, here: Path, rr: Rr) -> None:
    shutil.copytree(converted, here, dirs_exist_ok=True)
    write_params(here, lambda params: params["methods"]["relational"].update(epochs=1000))
    process = subprocess.Popen([sys.executable, "-m", "rr", *PRETRAIN], stdout=subprocess.DEVNULL, stderr=-3)
    while not (FILE.exists() and "percent" in only()):
        assert process.poll() is None
        time.sleep(0.01)
    assert "relational 1  running" in rr("status").out
    process.kill()
    process.wait()
    assert json.loads(rr("status", "--json").out)[0]["state"] == "stopped"
    write_params(here, lambda params: params["methods"]["relational"].update(learning_rate=1e30))
    assert rr(*PRETRAIN).code == 2
    assert "relational 1  failed" in rr("status").out
    assert "the loss is nan in epoch" in rr("status").out
    write_params(here)
    assert rr(*PRETRAIN).code == 0
    assert rr(*EVALUATE, "knn").code == 0
    assert "nothing runs here" in rr("status").out


def test_looking_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from rr.cli import app; app(['status'], standalone_mode=False); sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
