"""RR_GPUS: runs side by side on one host, each with a GPU of its own. The choice is a variable, so no GPU is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, Rr

from rr.errors import UserError
from rr.runtime import gpu_lock

# Says which GPU it has and when, by a clock that all processes share.
RUN = """
import os, pathlib, sys, time
from rr import gpus
gpus.LOCKS = pathlib.Path(sys.argv[2])
gpus.take()
began = time.monotonic()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[1]))
print(began, time.monotonic(), flush=True)
"""


def start(folder: Path, named: str, seconds: float) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(seconds), str(folder)], env=environment | {"RR_GPUS": named}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has no GPU yet, and may get one."""
    monkeypatch.setattr(gpu_lock, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(gpu_lock, "_taken", None)
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
    second.kill()
    assert third.stdout.readline() == "MIG-4\n"
    first.kill()
    for run in (first, second, third):
        run.communicate(timeout=100)


@pytest.mark.usefixtures("here")
def test_a_stage_takes_one_unless_told_to_compute_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("RR_GPUS", "5,6")
    assert gpu_lock.device("cpu") == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert gpu_lock.device("auto") == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert gpu_lock.device("cuda") == "cuda"  # a process has one
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_is_not_there_is_no_reason_to_compute_elsewhere(
    converted: Path, monkeypatch: pytest.MonkeyPatch, rr: Rr, device: str
) -> None:
    monkeypatch.chdir(converted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RR_GPUS", "7,0")
    outcome = rr(*PRETRAIN, "--device", device)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("rr: RR_GPUS=7,0: torch sees no GPU 7 here")
    assert not (converted / "runs").exists()


@pytest.mark.usefixtures("here")
def test_a_gpu_that_is_named_twice_over_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "0,1")
    with pytest.raises(UserError, match=r"--device cuda:0 is one GPU, and RR_GPUS=0,1 gives them out"):
        gpu_lock.device("cuda:0")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("here")
def test_a_number_is_one_gpu_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(tmp_path / "locks", "0", 100)
    assert first.stdout
    assert first.stdout.readline() == "0\n"
    monkeypatch.setenv("RR_GPUS", "00,005")
    assert gpu_lock.take() == os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    first.kill()
    first.communicate(timeout=100)


def test_sessions_with_other_temporary_folders_share_the_locks(tmp_path: Path) -> None:
    where = [sys.executable, "-c", "from rr import gpus; print(gpus.LOCKS)"]
    found = subprocess.run(where, env=os.environ | {"TMPDIR": str(tmp_path)}, text=True, capture_output=True)
    assert found.stdout == f"{gpu_lock.LOCKS}\n"


@pytest.mark.usefixtures("here")
def test_a_file_in_the_place_of_the_locks(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: Rr
) -> None:
    monkeypatch.chdir(converted)
    (tmp_path / "locks").write_text("in the way")
    monkeypatch.setenv("RR_GPUS", "0")
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: something stands in the way of a file or folder at {tmp_path / 'locks'}:")


@pytest.mark.usefixtures("here", "project")
@pytest.mark.parametrize("named", ["0;1", "0, 1", "0,", "../x", "-1", "0,-1", "٣"])
def test_names_that_are_none(monkeypatch: pytest.MonkeyPatch, rr: Rr, named: str) -> None:
    monkeypatch.setenv("RR_GPUS", named)
    outcome = rr(*PRETRAIN)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"rr: RR_GPUS={named}: give numbers or UUIDs" in outcome.err


@pytest.mark.usefixtures("here")
def test_what_a_cluster_has_given_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(UserError, match="both set"):
        gpu_lock.take()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
