"""Test runs in several processes: the same results, output from one process only, and one message per error."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import distributed_worker as worker
import golden
import numpy as np
import pytest
from helpers import EVALUATE, EXTRACT, LONG, PRETRAIN, ROOT, RunRr, wait_until, write_params
from hypothesis import given
from hypothesis import strategies as st

from rr.compute.process_group import ProcessGroup
from rr.data.beton import Beton
from rr.data.view_loader import ViewLoader
from rr.errors import UserError
from rr.params import DynamicsConfig
from rr.paths import PretrainFolder
from rr.pretrain import loop
from rr.runtime import status

WORKER_FILE = Path(worker.__file__)
RUN_FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
CHECKPOINT = Path("runs/resume/shapes/conv4/relational/1/resume.pt")
HISTORY = Path("runs/history/shapes/conv4/relational/1.csv")
RR = (sys.executable, "-m", "rr")
LOST_PROCESS = "rr: another process of this run has ended or is not responding"


@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 300))
def test_local_slices_partition_a_mini_batch_evenly(world_size: int, batch_size: int, other_batch_size: int) -> None:
    groups = [ProcessGroup(rank, world_size) for rank in range(world_size)]
    local_batches = [list(range(batch_size))[group.local_slice(batch_size)] for group in groups]
    assert [image for local_batch in local_batches for image in local_batch] == list(range(batch_size))
    sizes = list(map(len, local_batches))
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0 or batch_size < world_size
    smaller = min(batch_size, other_batch_size)
    for rank, group in enumerate(groups):
        assert len(range(smaller)[group.local_slice(smaller)]) <= sizes[rank]
        assert groups[0].local_slice(batch_size, rank) == group.local_slice(batch_size)
    assert list(range(batch_size))[ProcessGroup().local_slice(batch_size)] == list(range(batch_size))


@pytest.mark.slow
@pytest.mark.parametrize(("resident", "on_device"), [(True, False), (False, False), (True, True)])
def test_local_views_are_those_of_a_single_process(tmp_path: Path, resident: bool, on_device: bool) -> None:
    golden.write_images(tmp_path / "train.beton", worker.NUM_IMAGES)
    data = Beton(tmp_path / "train.beton", threads=1, max_resident_bytes=1 << 30 if resident else 0)
    shapes, config = golden.PARAMS.datasets["shapes"], golden.small_config("relational")
    K = 3

    def load_batches(group: ProcessGroup, first_step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        loader = ViewLoader(
            data, shapes, config.augmentation, num_views=K, batch_size=worker.BATCH_SIZE, seed=1, device="cpu",
            augment_on_device=on_device, local_slice=group.local_slice,
        )  # fmt: skip
        return [
            (loader.augment(*inputs).numpy().reshape(K, -1, 3, 32, 32).copy(), labels.numpy())
            for inputs, labels in loader.iter_epoch(1, first_step)
        ]

    for world_size, first_step in ((2, 0), (3, 1), (5, 2)):
        batches = load_batches(ProcessGroup(), first_step)
        local_batches = [load_batches(ProcessGroup(rank, world_size), first_step) for rank in range(world_size)]
        assert [len(labels) for _, labels in batches] == [8, 8, 5][first_step:]
        for step, (views, labels) in enumerate(batches):
            np.testing.assert_array_equal(np.concatenate([local[step][0] for local in local_batches], 1), views)
            for local in local_batches:
                np.testing.assert_array_equal(local[step][1], labels)


@pytest.mark.slow
def test_sync_batch_norm_equals_batch_norm_of_all_values() -> None:
    codes, _, err = worker.wait_for_exit(worker.start_processes(2, [sys.executable, WORKER_FILE, "batch_norm"]))
    assert codes == [0, 0], err


@pytest.mark.slow
def test_two_processes_train_like_a_single_process(tmp_path: Path) -> None:
    """`distributed_worker.py compare` runs the same test for any number of processes, any backbone and all methods."""
    for name, actual in worker.train_distributed(2, tmp_path, worker.DATA_PARALLEL_METHODS).items():
        run_folder = tmp_path / "single process" / name
        expected = worker.observe_training(name, tmp_path / "train.beton", run_folder, ProcessGroup())
        assert len(actual["losses"]) == len(expected["losses"]) == 6
        np.testing.assert_allclose(actual["losses"], expected["losses"], rtol=1e-10, err_msg=name)
        # The gradient of a bias before a batch norm consists of rounding errors, which Adam amplifies because it
        # normalizes gradients. Hence the absolute tolerance, which is the largest for Barlow Twins (docs/scaling.md).
        tolerances = {"rtol": 1e-9, "atol": 3e-8 if name == "barlow" else 1e-9}
        for kind in ("weights", "buffers"):
            np.testing.assert_allclose(actual[kind], expected[kind], **tolerances, err_msg=f"{name}, {kind}")
        # The last column is the gradient norm of all parameters outside the backbone. Some methods have none.
        assert np.isfinite(actual["history"][:, :-1]).all()
        # The weights do not depend on the size of the gradients, because Adam normalizes it, but the history does.
        np.testing.assert_allclose(actual["history"], expected["history"], rtol=1e-9, err_msg=name)


def start_rr(
    world_size: int, *arguments: object, environments: Sequence[dict[str, str]] = ()
) -> list[subprocess.Popen[str]]:
    return worker.start_processes(world_size, [*RR, *arguments], environments=environments)


def torchrun_command(*arguments: object) -> list[str]:
    torchrun = Path(sys.executable).parent / "torchrun"
    return [str(torchrun), "--standalone", "--nproc-per-node", "2", *map(str, arguments)]


def start_torchrun(*arguments: object) -> subprocess.Popen[str]:
    command = torchrun_command(*arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def continue_with_torchrun() -> tuple[int, int]:
    """Run the training until it ends, and return the epoch and the step at which it continued."""
    result = subprocess.run(torchrun_command("-m", "rr", *PRETRAIN), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return parse_position(result.stderr)


def checkpoint_inode() -> int | None:
    """Return the checkpoint's inode number, or None if the file is missing for a moment while it is replaced."""
    try:
        return CHECKPOINT.stat().st_ino
    except FileNotFoundError:
        return None


def torchrun_workers(torchrun_pid: int) -> list[int]:
    """Return the process ids of the workers that torchrun started."""
    children = Path(f"/proc/{torchrun_pid}/task/{torchrun_pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"--dataset" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def shapes_project(project_copy: Path) -> Path:
    """Return a copy of the converted project, set up to train for 4 epochs of 7 steps with one thread per process."""
    write_params(project_copy, shorten_training)
    return project_copy


def shorten_training(params: dict) -> None:
    params["threads"] = 1
    params["methods"]["relational"].update(views=2, epochs=4)


def read_artifacts() -> dict[str, bytes]:
    files = [*(RUN_FOLDER / f"{name}.safetensors" for name in ("backbone", "last_epoch")), RUN_FOLDER / "views.png"]
    files.append(HISTORY)
    return {file.name: file.read_bytes() for file in files}


def read_run_files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("runs").rglob("*.*")}


def parse_position(output: str) -> tuple[int, int]:
    """Return the epoch and the step after which a run stopped or continued. Only one process may print them."""
    matches = re.findall(r"(?:continuing|stopping) in epoch (\d+) after step (\d+)", output)
    assert len(matches) == 1, output
    return int(matches[0][0]), int(matches[0][1])


@pytest.mark.slow
def test_torchrun_training_continues_after_a_signal_and_a_kill(shapes_project: Path, rr: RunRr) -> None:
    codes, out, err = worker.wait_for_exit(start_rr(2, *PRETRAIN))
    assert codes == [0, 0], err
    assert out.count("1,600 views") == 1
    expected, record = read_artifacts(), json.loads((RUN_FOLDER / "run.json").read_text())
    assert record["processes"] == 2
    assert record["views"] == 200 * 2 * 4
    assert not list(Path("runs").rglob("resume*.pt"))
    assert not list(Path(".rr/status").rglob("*.json"))

    shutil.rmtree("runs")

    # Only the second process receives a signal. Both stop after the same step and leave one checkpoint and one message.
    processes = start_rr(2, *PRETRAIN)
    wait_until(CHECKPOINT.exists, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    codes, out, err = worker.wait_for_exit(processes)
    assert codes == [143, 143], err
    assert err.count("rr: terminated: run the same command again to continue") == 1
    stopped = parse_position(err)

    # All processes are killed at the same time, including torchrun.
    torchrun = start_torchrun("-m", "rr", *PRETRAIN)
    inode = checkpoint_inode()
    wait_until(lambda: (checkpoint_inode() or inode) != inode, torchrun)
    for pid in [*torchrun_workers(torchrun.pid), torchrun.pid]:
        os.kill(pid, signal.SIGKILL)
    assert parse_position(torchrun.communicate()[1]) == stopped

    assert continue_with_torchrun() > stopped
    assert read_artifacts() == expected
    assert not list(Path("runs").rglob("resume*.pt"))
    assert not list(Path().rglob(".*.tmp*"))

    assert rr(*EXTRACT).code == 0
    assert rr(*EVALUATE, "knn").code == 0
    # A single process computes the same values up to rounding errors, which grow with each epoch (measured: 1e-5 to
    # 2e-3).
    two = np.genfromtxt(HISTORY, delimiter=",", names=True)
    shutil.rmtree(RUN_FOLDER)
    assert rr(*PRETRAIN).code == 0
    assert json.loads((RUN_FOLDER / "run.json").read_text())["processes"] == 1
    one = np.genfromtxt(HISTORY, delimiter=",", names=True)
    assert (abs(two["loss"] / one["loss"] - 1) < [1e-4, 1e-3, 1e-2, 2e-2]).all(), (two["loss"], one["loss"])
    assert two["pairs"].tolist() == one["pairs"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("signals", [{signal.SIGTERM: 2}, {signal.SIGUSR1: 1}][: 2 if LONG else 1])
def test_signals_to_all_processes_wait_for_the_checkpoint(
    shapes_project: Path, signals: dict[signal.Signals, int]
) -> None:
    """Slurm signals torchrun and its workers, and torchrun forwards a SIGTERM to the workers.

    torchrun ignores SIGUSR1 here, as it does when the Snakefile starts it.
    """
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        torchrun = start_torchrun(WORKER_FILE, "slow_checkpoints", *PRETRAIN)
    finally:
        signal.signal(signal.SIGUSR1, handler)
    wait_until(CHECKPOINT.exists, torchrun)
    inode = checkpoint_inode()
    for number, count in signals.items():
        for pid in [torchrun.pid, *torchrun_workers(torchrun.pid)] * count:
            os.kill(pid, number)
    _, err = torchrun.communicate(timeout=60)
    stopped = parse_position(err)
    assert checkpoint_inode() != inode, err
    assert continue_with_torchrun() == stopped


@pytest.mark.slow
def test_no_process_exits_before_the_checkpoint_is_saved(shapes_project: Path) -> None:
    """This matters because torchrun kills the other processes half a minute after the first exit."""
    processes = worker.start_processes(2, [sys.executable, WORKER_FILE, "slow_checkpoints", *PRETRAIN])
    wait_until(CHECKPOINT.exists, processes[0])
    inode = checkpoint_inode()
    for process in processes:
        process.send_signal(signal.SIGUSR1)
    processes[1].wait(60)
    assert checkpoint_inode() != inode
    assert worker.wait_for_exit(processes)[0] == [138, 138]


@pytest.mark.slow
def test_training_continues_with_another_number_of_processes(shapes_project: Path, rr: RunRr) -> None:
    processes = start_rr(2, *PRETRAIN)
    wait_until(CHECKPOINT.exists, processes[0])
    processes[0].send_signal(signal.SIGUSR1)
    codes, _, first_err = worker.wait_for_exit(processes)
    assert codes == [138, 138], first_err
    codes, _, second_err = worker.wait_for_exit(start_rr(3, *PRETRAIN))
    assert codes == [0, 0, 0], second_err
    assert parse_position(second_err) == parse_position(first_err)
    record = json.loads((RUN_FOLDER / "run.json").read_text())
    assert (record["processes"], record["views"]) == (3, 1600)


@pytest.mark.slow
def test_killed_process_ends_the_others_with_a_message(shapes_project: Path) -> None:
    processes = start_rr(2, *PRETRAIN)
    wait_until(CHECKPOINT.exists, processes[0])
    processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    codes, _, err = worker.wait_for_exit(processes)
    assert time.monotonic() - start < 30
    assert codes == [2, -signal.SIGKILL]
    assert err.count(LOST_PROCESS) == err.count("rr: ") == 1
    assert "Traceback" not in err
    assert CHECKPOINT.exists()
    assert not (RUN_FOLDER / "run.json").exists()
    (run,) = status.list_unfinished_runs()
    assert (run["state"], run["error"][:50]) == ("failed", LOST_PROCESS.removeprefix("rr: ")[:50])


@pytest.mark.slow
def test_hanging_process_ends_the_others_with_one_message() -> None:
    processes = worker.start_processes(3, [sys.executable, WORKER_FILE, "hang", 8])
    hanging = processes.pop()
    codes, _, err = worker.wait_for_exit(processes)
    hanging.kill()
    hanging.communicate()
    assert codes == [2, 2], err
    assert err.count(LOST_PROCESS) == err.count("rr: ") == 1


def use_other_parameters(folder: Path) -> dict[str, str]:
    """Write other parameters, and return the environment variables of a process that uses them."""

    def change(params: dict) -> None:
        shorten_training(params)
        params["methods"]["relational"].update(views=3)

    (folder / "other").mkdir()
    write_params(folder / "other", change)
    return {"RR_PARAMS": "other/params.yaml"}


def use_other_code(folder: Path) -> dict[str, str]:
    """Write another version of the code, and return the environment variables of a process that uses it."""
    shutil.copytree(ROOT / "rr", folder / "other/rr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder / "other")
    with open(folder / "other/rr/methods/relation/dot_product_loss.py", "a") as module:
        module.write("ANOTHER_VERSION = 1\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder / "other"), os.environ["PYTHONPATH"]])}


@pytest.mark.slow
@pytest.mark.parametrize(("make_environment", "fact"), [(use_other_parameters, "parameters"), (use_other_code, "code")])
def test_processes_with_different_parameters_or_code_raise(
    shapes_project: Path, make_environment: Callable[[Path], dict[str, str]], fact: str
) -> None:
    processes = start_rr(2, *PRETRAIN, environments=[{}, make_environment(shapes_project)])
    codes, out, err = worker.wait_for_exit(processes)
    assert codes == [2, 2]
    assert out == ""
    (message,) = (line for line in err.splitlines() if line.startswith("rr: "))
    assert f"process 1 does not have the same {fact} as process 0" in message
    assert "Traceback" not in err
    assert not list(Path("runs").rglob("*.*"))


@pytest.mark.slow
def test_rejected_start_keeps_the_finished_run(shapes_project: Path, rr: RunRr) -> None:
    assert rr(*PRETRAIN).code == 0
    finished = read_run_files()
    assert RUN_FOLDER / "run.json" in finished
    processes = start_rr(2, *PRETRAIN, environments=[{}, use_other_parameters(shapes_project)])
    codes, _, err = worker.wait_for_exit(processes)
    assert codes == [2, 2], err
    assert read_run_files() == finished


@pytest.mark.slow
def test_processes_with_different_checkpoints_raise(shapes_project: Path, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    shutil.copytree(shapes_project, other_folder)
    processes = start_rr(2, *PRETRAIN)
    wait_until(CHECKPOINT.exists, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    assert worker.wait_for_exit(processes)[0] == [143, 143]
    content = CHECKPOINT.read_bytes()
    processes = worker.start_processes(2, [*RR, *PRETRAIN], folders=[shapes_project, other_folder])
    codes, _, err = worker.wait_for_exit(processes)
    assert codes == [2, 2]
    assert f"process 1 does not have the same checkpoint {CHECKPOINT}" in err
    assert CHECKPOINT.read_bytes() == content
    assert not (other_folder / CHECKPOINT).exists()


@pytest.mark.slow
def test_processes_with_different_images_raise(shapes_project: Path, tmp_path: Path) -> None:
    def change(params: dict) -> None:
        shorten_training(params)
        params["datasets"]["shapes"]["source"].update(seed=5)

    other_folder = tmp_path / "other"
    shutil.copytree(shapes_project, other_folder)
    write_params(other_folder, change)
    for stage in ("fetch", "convert"):
        subprocess.run([*RR, stage, "--dataset", "shapes"], cwd=other_folder, check=True, capture_output=True)
    processes = worker.start_processes(2, [*RR, *PRETRAIN], folders=[shapes_project, other_folder])
    codes, _, err = worker.wait_for_exit(processes)
    assert codes == [2, 2]
    assert "process 1 does not have the same data as process 0" in err
    assert not list(Path("runs").rglob("*.*"))


def training_error(config: object, world_size: int, folder: Path) -> str:
    """Return the main process's message. The process fails before it communicates with the others."""
    golden.write_images(folder / "train.beton", worker.NUM_IMAGES)
    dynamics = DynamicsConfig(every_n_epochs=0, images=50)
    job = loop.Job(golden.PARAMS.datasets["shapes"], "conv4", config, 10, 1, "float32", dynamics, "test")  # type: ignore[arg-type]
    outputs = PretrainFolder("shapes", "conv4", "method", 1, folder)
    group = ProcessGroup(0, world_size)
    with pytest.raises(UserError) as error:
        loop.pretrain(job, folder / "train.beton", outputs, device="cpu", threads=1, group=group)
    assert not outputs.weights.exists()
    assert not outputs.views.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "message"),
    [
        (4, 5, "5 processes cannot share mini-batches of 4 images"),
        (64, 30, "30 processes cannot share mini-batches of 21 images"),
        (19, 3, "the size of the last mini-batch is 2, but each of 3 processes needs at least one image"),
    ],
)
def test_mini_batch_with_fewer_images_than_processes_raises(
    tmp_path: Path, batch_size: int, world_size: int, message: str
) -> None:
    config = golden.small_config("relational", batch_size=batch_size)
    assert message in training_error(config, world_size, tmp_path)


def test_method_without_data_parallel_support_raises(tmp_path: Path) -> None:
    config = golden.small_config("infomax", batch_size=8)
    assert "the infomax method does not support training with several processes (2 were started)" in training_error(
        config, 2, tmp_path
    )


def test_invalid_environment_variables_raise(shapes_project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for variable in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RANK=(unset), WORLD_SIZE=2" in outcome.err
    assert "start rr with torchrun" in outcome.err
    for variable, value in {"RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(variable, value)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RANK=2 is out of range: with WORLD_SIZE=2, it must be 0 to 1" in outcome.err
    monkeypatch.setenv("RR_GPUS", "0,1")
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RR_GPUS assigns one GPU to each run" in outcome.err
    monkeypatch.delenv("RR_GPUS")
    for port in ("abc", "0", "65536"):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("MASTER_PORT", port)
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert f"MASTER_PORT={port}" in outcome.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("stage", ["fetch", "convert", "extract", "evaluate", "report"])
def test_single_process_stage_raises_in_several_processes(
    shapes_project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    commands = {"extract": EXTRACT, "evaluate": (*EVALUATE, "knn"), "report": ("report",)}
    monkeypatch.setenv("WORLD_SIZE", "2")
    messages = []
    for rank in ("0", "", "1"):  # without a rank, no other process would print the error
        monkeypatch.setenv("RANK", rank)
        outcome = rr(*commands.get(stage, (stage, "--dataset", "shapes")))
        assert outcome.code == 2
        messages.append(outcome.err)
    assert f"{stage} runs in a single process, but WORLD_SIZE is 2" in messages[0]
    assert messages[1] == messages[0]
    assert messages[2] == ""


@pytest.mark.slow
def test_occupied_port_raises(shapes_project: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = str(occupied.getsockname()[1])
        [first, second] = start_rr(2, *PRETRAIN, environments=[{"MASTER_PORT": port}] * 2)
        _, err = first.communicate(timeout=60)
        second.kill()
        second.communicate()
    assert first.returncode == 2
    [message] = (line for line in err.splitlines() if line.startswith("rr: "))
    assert f"the 2 processes of this run could not connect to 127.0.0.1:{port}" in message
    assert "a free port" in message
    assert "Traceback" not in err


@pytest.mark.slow
def test_process_that_waits_for_the_others_can_be_stopped(shapes_project: Path) -> None:
    processes = start_rr(2, *PRETRAIN)
    os.kill(processes[1].pid, signal.SIGKILL)
    wait_until(lambda: signal.SIGTERM in handled_signals(processes[0].pid), processes[0])
    # The process restores the default action while it waits for the others.
    wait_until(lambda: signal.SIGTERM not in handled_signals(processes[0].pid), processes[0])
    processes[0].send_signal(signal.SIGTERM)
    start = time.monotonic()
    worker.wait_for_exit(processes)
    assert time.monotonic() - start < 10
    assert processes[0].returncode == -signal.SIGTERM
    assert not list(Path("runs").rglob("*.*"))


# Waits four seconds for the other processes instead of ten minutes.
IMPATIENT = """
from datetime import timedelta
from rr import cli
from rr.compute import process_group

process_group.TIMEOUT = timedelta(seconds=4)
cli.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_process_without_partners_prints_that_it_waits_and_raises(shapes_project: Path, rank: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *PRETRAIN],
        env=os.environ | environment | {"MASTER_PORT": str(port)},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    address = f"127.0.0.1:{port}"
    assert f"waiting for 1 other process of this run at {address} (WORLD_SIZE is 2)" in done.stderr
    assert f"rr: the 2 processes of this run did not all connect to {address} within 4 s: start all of" in done.stderr


def handled_signals(pid: int) -> set[int]:
    """Return the signals for which a process has a handler."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_local_device_of_several_processes_on_one_gpu_raises() -> None:
    assert ProcessGroup().local_device("cuda:1") == "cuda:1"
    assert ProcessGroup(1, 2, 1).local_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda:1 is a single GPU, but 2 processes need one each"):
        ProcessGroup(1, 2, 1).local_device("cuda:1")
