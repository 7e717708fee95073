"""Tests for RR_GPUS. The assignment is an environment variable, so no GPU is needed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, RunRr

from rr.errors import UserError
from rr.runtime import gpu_lock

# Prints its GPU, and the times between which it held the GPU, from a clock that all processes share.
RUN = """
import os, pathlib, sys, time
from rr.runtime import gpu_lock
gpu_lock.LOCK_DIR = pathlib.Path(sys.argv[2])
gpu_lock.acquire_gpu(os.environ["RR_GPUS"])
start = time.monotonic()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[1]))
print(start, time.monotonic(), flush=True)
"""


StartRun = Callable[[Path, str, float], subprocess.Popen[str]]


@pytest.fixture
def start_run() -> Iterator[StartRun]:
    """Return a function that starts a process, which holds a GPU for some seconds and is killed after the test."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    with ExitStack() as stack:

        def start(lock_dir: Path, rr_gpus: str, seconds: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(seconds), str(lock_dir)], env=environment | {"RR_GPUS": rr_gpus},
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def no_gpu_acquired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process acquire a GPU, with locks in a temporary folder."""
    monkeypatch.setattr(gpu_lock, "LOCK_DIR", tmp_path / "locks")
    monkeypatch.setattr(gpu_lock, "_acquired", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpu_takes_as_many_runs_as_it_is_listed(tmp_path: Path, start_run: StartRun) -> None:
    runs_by_gpu: dict[str, list[tuple[float, float]]] = {}
    for run in [start_run(tmp_path, "0,1,1", 0.5) for _ in range(9)]:
        out, err = run.communicate(timeout=100)
        assert run.returncode == 0, err
        gpu, start, end = out.split()
        runs_by_gpu.setdefault(gpu, []).append((float(start), float(end)))
    assert sum(map(len, runs_by_gpu.values())) == 9
    for gpu, runs in runs_by_gpu.items():
        concurrent = max(sum(start <= moment < end for start, end in runs) for moment, _ in runs)
        assert concurrent <= {"0": 1, "1": 2}[gpu], runs


def test_gpu_that_is_listed_twice_takes_two_runs_at_the_same_time(tmp_path: Path, start_run: StartRun) -> None:
    first, second = start_run(tmp_path, "1,1", 100), start_run(tmp_path, "1,1", 100)
    assert first.stdout
    assert second.stdout
    assert [run.stdout.readline() for run in (first, second)] == ["1\n", "1\n"]
    assert first.poll() is None


def test_waiting_run_gets_the_gpu_of_a_killed_run(tmp_path: Path, start_run: StartRun) -> None:
    first, second = start_run(tmp_path, "3", 100), start_run(tmp_path, "MIG-4,3", 100)
    assert first.stdout
    assert second.stdout
    assert [run.stdout.readline().strip() for run in (first, second)] == ["3", "MIG-4"]
    third = start_run(tmp_path, "3,MIG-4", 0)
    assert third.stdout
    assert third.stderr
    assert third.stderr.readline() == "all GPUs in RR_GPUS=3,MIG-4 are in use by other runs: waiting for a free one\n"
    second.kill()
    assert third.stdout.readline() == "MIG-4\n"


@pytest.mark.usefixtures("no_gpu_acquired")
def test_gpu_is_acquired_unless_the_device_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("RR_GPUS", "5,6")
    assert gpu_lock.acquire_device("cpu") == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert gpu_lock.acquire_device("auto") == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert gpu_lock.acquire_device("cuda") == "cuda"  # a process acquires only one
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


@pytest.mark.usefixtures("no_gpu_acquired")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_missing_gpu_raises_instead_of_using_the_cpu(
    converted_project: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr, device: str
) -> None:
    monkeypatch.chdir(converted_project)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RR_GPUS", "7,0")
    outcome = rr(*PRETRAIN, "--device", device)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("rr: RR_GPUS=7,0: torch cannot use GPU 7 on this machine")
    assert not (converted_project / "runs").exists()


@pytest.mark.usefixtures("no_gpu_acquired")
def test_numbered_device_with_rr_gpus_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "0,1")
    with pytest.raises(UserError, match=r"--device cuda:0 selects one GPU, but RR_GPUS=0,1 is set"):
        gpu_lock.acquire_device("cuda:0")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("no_gpu_acquired")
def test_numbers_with_leading_zeros_share_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_run: StartRun
) -> None:
    first = start_run(tmp_path / "locks", "0", 100)
    assert first.stdout
    assert first.stdout.readline() == "0\n"
    monkeypatch.setenv("RR_GPUS", "00,005")
    assert gpu_lock.acquire_gpu(os.environ["RR_GPUS"]) == os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_lock_folder_does_not_depend_on_tmpdir(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from rr.runtime import gpu_lock; print(gpu_lock.LOCK_DIR)"]
    process = subprocess.run(command, env=os.environ | {"TMPDIR": str(tmp_path)}, text=True, capture_output=True)
    assert process.stdout == f"{gpu_lock.LOCK_DIR}\n"


@pytest.mark.usefixtures("no_gpu_acquired")
def test_file_at_the_path_of_the_lock_folder_raises(
    converted_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    monkeypatch.chdir(converted_project)
    (tmp_path / "locks").write_text("in the way")
    monkeypatch.setenv("RR_GPUS", "0")
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: a file or folder already exists at {tmp_path / 'locks'}:")


@pytest.mark.usefixtures("no_gpu_acquired", "project")
@pytest.mark.parametrize("rr_gpus", ["0;1", "0, 1", "0,", "../x", "-1", "0,-1", "٣"])
def test_invalid_list_raises(monkeypatch: pytest.MonkeyPatch, rr: RunRr, rr_gpus: str) -> None:
    monkeypatch.setenv("RR_GPUS", rr_gpus)
    outcome = rr(*PRETRAIN)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"rr: RR_GPUS={rr_gpus}: must be GPU numbers or UUIDs" in outcome.err


@pytest.mark.usefixtures("no_gpu_acquired")
def test_rr_gpus_with_cuda_visible_devices_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_GPUS", "0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(UserError, match="both set"):
        gpu_lock.acquire_gpu(os.environ["RR_GPUS"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
