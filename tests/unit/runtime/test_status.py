"""Tests for `rr status`: active runs with their progress, and runs that failed, were interrupted or were killed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import EVALUATE, EXTRACT, PRETRAIN, RunRr, wait_until, write_params

from rr.errors import UserError
from rr.paths import PretrainPaths, unfinished_history
from rr.runtime import progress, status
from rr.runtime.progress import Progress

FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
STATUS_FILE = Path(".rr/status/pretrain/shapes/conv4/relational/1.json")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that contains only an empty params.yaml, and return it."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    return tmp_path


def write_history(text: str) -> None:
    history = unfinished_history(PretrainPaths("shapes", "conv4", "relational", 1).checkpoint)
    history.parent.mkdir(parents=True, exist_ok=True)
    history.write_text(text)


def single_run() -> dict:
    (run,) = status.list_unfinished_runs()
    return run


def test_run_is_listed_only_while_it_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status.list_unfinished_runs() == []
    assert status.render_status(as_json=False) == "status: there are no unfinished runs in this folder"
    monkeypatch.setattr(status, "SECONDS_BETWEEN_HEARTBEATS", 0.0)
    with status.track_run("pretrain", FOLDER):
        run = single_run()
        assert (run["stage"], run["names"], run["state"]) == (
            "pretrain",
            ["shapes", "conv4", "relational", "1"],
            "running",
        )
        with Progress("pretrain", total=2000, unit="views", done=500) as bar:
            assert (single_run()["percent"], single_run()["seconds_left"]) == (25, None)
            for second in range(11):
                monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda second=second: second))
                bar.advance(100, "epoch 3/4, loss 0.1")
            bar._update(time.monotonic())
            run = single_run()
            assert (run["percent"], run["unit"], run["note"]) == (80, "views", "epoch 3/4, loss 0.1")
            assert (run["rate"], run["seconds_left"]) == (100, 4)
            header, line = status.render_status(as_json=False).splitlines()
            assert header.split() == ["stage", "run", "state", "done", "rate", "left", "updated", "message"]
            assert line.startswith("pretrain  shapes conv4 relational 1  running  80%   100 views/s  4 s")
            assert line.endswith("ago  epoch 3/4, loss 0.1")
            assert json.loads(status.render_status(as_json=True)) == status.list_unfinished_runs()
    assert status.list_unfinished_runs() == []
    assert [path for path in Path(".rr").rglob("*") if path.is_file()] == []


def test_runs_of_several_processes_are_listed() -> None:
    code = """
import os
from pathlib import Path
from rr.runtime import status
with status.track_run("evaluate", Path("runs/evaluate/a/conv4/b/1/a/knn")):
    os.kill(os.getpid(), 9)
"""
    with status.track_run("report", Path("report")):
        subprocess.run([sys.executable, "-c", code])
        assert [(run["stage"], run["names"], run["state"]) for run in status.list_unfinished_runs()] == [
            ("evaluate", ["a", "conv4", "b", "1", "a", "knn"], "stopped"),
            ("report", [], "running"),
        ]


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (UserError("the loss is nan: lower the rate\nor the other"), "failed", "the loss is nan: lower the rate"),
        (OSError(28, "No space left", "x.beton"), "failed", "no space left on the disk at x.beton"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (SystemExit(143), "interrupted", "terminated"),
        (SystemExit(138), "interrupted", "stopped before a time limit"),
    ],
)
def test_failed_run_is_listed_with_its_error(error: BaseException, state: str, message: str) -> None:
    def fail() -> None:
        with status.track_run("pretrain", FOLDER):
            raise error

    with pytest.raises(type(error)):
        fail()
    assert single_run()["state"] == state
    assert message in single_run()["error"]
    assert message in status.render_status(as_json=False)
    assert len(status.render_status(as_json=False).splitlines()) == 2
    with status.track_run("pretrain", FOLDER):
        assert single_run()["state"] == "running"
    assert status.list_unfinished_runs() == []


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "running"),
        ({"start_ticks": "1"}, "stopped"),  # another process now has the same id
        ({"pid": 2**22 + 1}, "stopped"),
        ({"host": "another"}, "elsewhere"),
    ],
)
def test_state_depends_on_the_process(change: dict, state: str) -> None:
    with status.track_run("pretrain", FOLDER):
        STATUS_FILE.write_text(json.dumps(json.loads(STATUS_FILE.read_text()) | change))
        assert single_run()["state"] == state


@pytest.mark.parametrize(
    ("change", "state"), [({}, "running"), ({"pid": 1}, "running"), ({"pid": 2**22 + 1}, "stopped")]
)
def test_state_without_proc_depends_on_the_process_id(
    monkeypatch: pytest.MonkeyPatch, change: dict, state: str
) -> None:
    monkeypatch.setattr(status, "_start_ticks", lambda pid: None)
    with status.track_run("pretrain", FOLDER):
        STATUS_FILE.write_text(json.dumps(json.loads(STATUS_FILE.read_text()) | change))
        assert single_run()["state"] == state


@pytest.mark.parametrize(
    "content",
    [
        "", '{"stage": "pre', "[]", "null", "{}", '{"pid": "x"}', '{"pid": null}', '{"pid": 1.5}', '{"pid": -1}',
        '{"pid": true}', f'{{"pid": {2**70}}}',
    ],
)  # fmt: skip
def test_damaged_file_is_listed_as_a_stopped_run(content: str) -> None:
    STATUS_FILE.parent.mkdir(parents=True)
    STATUS_FILE.write_text(content)
    run = single_run()
    assert (run["stage"], run["names"], run["state"]) == ("pretrain", ["shapes", "conv4", "relational", "1"], "stopped")
    assert "stopped" in status.render_status(as_json=False)


def test_run_continues_if_its_progress_cannot_be_written() -> None:
    Path(".rr").write_text("in the way")
    with status.track_run("pretrain", FOLDER), Progress("pretrain", 10, "views") as bar:
        bar.advance(10)


def test_file_is_updated_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_HEARTBEATS", 0.01)
    with Progress("evaluate"), status.track_run("evaluate", FOLDER):
        assert "note" not in single_run()
        wait_until(lambda: single_run().get("note") == "")  # until the thread has written the file
        with Progress("evaluate", unit="images", note="features") as bar:
            bar.advance(1200)
            wait_until(lambda: single_run().get("done") == 1200)
            assert "1,200 images" in status.render_status(as_json=False)
            assert status.render_status(as_json=False).endswith("features")
    assert status.list_unfinished_runs() == []


def test_curves_of_the_finished_epochs_are_shown() -> None:
    write_history("epoch,loss,accuracy\n1,4.0,0.25\n2,3.0,\n3,0.5,0.75\n")
    with status.track_run("pretrain", FOLDER):
        assert single_run()["history"] == [
            {"epoch": 1, "loss": 4.0, "accuracy": 0.25}, {"epoch": 2, "loss": 3.0},
            {"epoch": 3, "loss": 0.5, "accuracy": 0.75},
        ]  # fmt: skip
        header, line = status.render_status(as_json=False).splitlines()
        assert header.split()[-2:] == ["loss", "accuracy"]
        # 3.0 is 5/7 of the way from 0.5 to 4.0.
        assert line.endswith("ago  █▆▁ 0.5  ▁█ 0.75")


@pytest.mark.parametrize("text", ["", "epoch,loss,accuracy\n", "loss\nabc\n", "epoch,loss\n1,0.5,7\n"])
def test_missing_or_damaged_history_has_no_curve(text: str) -> None:
    write_history(text)
    with status.track_run("pretrain", FOLDER):
        assert single_run()["history"] == []
        assert "loss" not in status.render_status(as_json=False)


def test_curve_of_many_values_shows_means() -> None:
    blocks, last = status._sparkline([float(value // 2) for value in range(2 * status._CURVE_WIDTH)]).split()
    assert (len(blocks), last) == (status._CURVE_WIDTH, str(status._CURVE_WIDTH - 1))
    assert list(blocks) == sorted(blocks)
    assert set(blocks) == set("▁▂▃▄▅▆▇█")
    assert status._sparkline([0.5, 0.5]) == "▁▁ 0.5"


def test_progress_of_an_interrupted_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(status, "SECONDS_BETWEEN_HEARTBEATS", 0.0)

    def train() -> None:
        with Progress("pretrain"), status.track_run("pretrain", FOLDER), Progress("pretrain", 200, "views") as bar:
            bar.advance(120, "epoch 3/5")
            raise KeyboardInterrupt

    # Let the thread update the outer `Progress` after the inner one has ended and before the run ends.
    end = Progress.__exit__
    monkeypatch.setattr(Progress, "__exit__", lambda self, *error: (end(self, *error), time.sleep(0.1))[0])
    with pytest.raises(KeyboardInterrupt):
        train()
    run = single_run()
    assert (run["state"], run["percent"], run["note"]) == ("interrupted", 60, "epoch 3/5")
    assert "relational 1  interrupted  60%" in status.render_status(as_json=False)


def test_interrupted_run_has_no_rate_and_no_time_left() -> None:
    def columns() -> list[str]:
        return status.render_status(as_json=False).splitlines()[0].split()

    def train() -> None:
        with status.track_run("pretrain", FOLDER):
            status.heartbeat(percent=60, unit="views", rate=100, seconds_left=4)
            assert columns() == ["stage", "run", "state", "done", "rate", "left", "updated"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert columns() == ["stage", "run", "state", "done", "updated", "message"]


def test_failure_is_forgotten_when_its_outputs_have_been_replaced() -> None:
    record = FOLDER / "run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    os.utime(record, (1, 1))
    with pytest.raises(ZeroDivisionError), status.track_run("pretrain", FOLDER):
        raise ZeroDivisionError
    assert single_run()["state"] == "failed"
    os.utime(record, (time.time() + 1,) * 2)
    assert status.list_unfinished_runs() == []
    with status.track_run("pretrain", FOLDER):
        os.utime(record, (2**32, 2**32))
        assert single_run()["state"] == "running"


def test_status_outside_a_project_is_an_error(rr: RunRr) -> None:
    Path("params.yaml").unlink()
    outcome = rr("status")
    assert outcome.code == 2
    assert f"{Path.cwd()} is not a project (no params.yaml)" in outcome.err


@pytest.mark.slow
def test_killed_and_failed_pretrainings_are_listed(converted_project: Path, folder: Path, rr: RunRr) -> None:
    shutil.copytree(converted_project, folder, dirs_exist_ok=True)
    write_params(folder, lambda params: params["methods"]["relational"].update(epochs=1000))
    process = subprocess.Popen([sys.executable, "-m", "rr", *PRETRAIN], stdout=subprocess.DEVNULL, stderr=-3)
    wait_until(lambda: STATUS_FILE.exists() and "percent" in single_run() and single_run()["history"], process)
    assert "relational 1  running" in rr("status").out
    process.kill()
    process.wait()
    epochs = [row["epoch"] for row in single_run()["history"]]
    assert epochs == [*range(1, len(epochs) + 1)]
    assert json.loads(rr("status", "--json").out)[0]["state"] == "stopped"
    write_params(folder, lambda params: params["methods"]["relational"].update(learning_rate=1e30))
    assert rr(*PRETRAIN).code == 2
    assert "relational 1  failed" in rr("status").out
    assert "the loss is nan in epoch" in rr("status").out
    write_params(folder)
    assert rr(*PRETRAIN).code == 0
    assert not Path("runs/resume/shapes/conv4/relational/1/history.csv").exists()
    assert rr(*EXTRACT).code == 0
    assert rr(*EVALUATE, "knn").code == 0
    assert "there are no unfinished runs" in rr("status").out


def test_status_does_not_import_numpy() -> None:
    code = (
        "import sys; from rr.cli import app; app(['status'], standalone_mode=False); sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
