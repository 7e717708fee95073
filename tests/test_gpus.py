"""RR_GPUS: runs side by side on one host, each with a GPU of its own. The choice is a variable, so no GPU is needed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import Rr

from rr import gpus, stages
from rr.errors import UserError

# Says which GPU it has and when, by a clock that all processes share.
RUN = """
import os, sys, time
from rr import gpus
gpus.take()
began = time.monotonic()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[1]))
print(began, time.monotonic(), flush=True)
"""


def start(folder: Path, named: str, seconds: float) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment |= {"RR_GPUS": named, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(seconds)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no GPU yet, and may get one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gpus, "_taken", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_no_more_runs_at_once_on_a_gpu_than_its_name_stands_there(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[float, float]]] = {}
    for run in [start(tmp_path, "0,1,1", 0.5) for _ in range(9)]:
        out, err = run.communicate(timeout=100)
        assert run.returncode == 0, err
        gpu, began, ended = out.split()
        seen.setdefault(gpu, []).append((float(began), float(ended)))
    assert sum(map(len, seen.values())) == 9
    for gpu, runs in seen.items():
        at_once = max(sum(began <= moment < ended for began, ended in runs) for moment, _ in runs)
        assert at_once == {"0": 1, "1": 2}[gpu], runs


def test_a_run_that_waits_says_so_and_gets_what_a_killed_one_had(tmp_path: Path) -> None:
    first, second = start(tmp_path, "3", 100), start(tmp_path, "MIG-4,3", 100)
    assert first.stdout
    assert second.stdout
    assert [run.stdout.readline().strip() for run in (first, second)] == ["3", "MIG-4"]
    third = start(tmp_path, "3,MIG-4", 0)
    assert third.stdout
    assert third.stderr
    assert third.stderr.readline() == "every GPU of RR_GPUS=3,MIG-4 has its run: waiting for one\n"
    second.send_signal(signal.SIGKILL)
    assert third.stdout.readline() == "MIG-4\n"
    first.kill()
    for run in (first, second, third):
        run.communicate(timeout=100)


@pytest.mark.usefixtures("here")
def test_a_stage_takes_one_unless_told_where_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "5,6")
    stages._device("cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    stages._device("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    stages._device("auto")  # a process has one
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.usefixtures("here", "project")
@pytest.mark.parametrize("named", ["0;1", "0, 1", "0,", "../x", "-1,a b"])
def test_names_that_are_none(monkeypatch: pytest.MonkeyPatch, rr: Rr, named: str) -> None:
    monkeypatch.setenv("RR_GPUS", named)
    outcome = rr("pretrain", "--dataset", "shapes", "--backbone", "conv4", "--method", "relational", "--seed", "1")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"rr: RR_GPUS={named}: give numbers or UUIDs" in outcome.err


@pytest.mark.usefixtures("here")
def test_what_a_cluster_has_given_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(UserError, match="both set"):
        gpus.take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
