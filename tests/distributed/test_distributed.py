"""Several processes of one run: the figures of one, files by one, and one message at a bad end."""

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

import distributed_worker
import golden
import numpy as np
import pytest
from helpers import EVALUATE, PRETRAIN, ROOT, Rr, write_params
from hypothesis import given
from hypothesis import strategies as st

from rr.compute.distributed import Group
from rr.data.beton import Beton
from rr.data.loader import Feed
from rr.errors import UserError
from rr.params import Dynamics
from rr.pretrain import loop
from rr.runtime import status

SCRIPT = Path(distributed_worker.__file__)
FOLDER, RESUME = (
    Path("runs/pretrain/shapes/conv4/relational/1"),
    Path("runs/resume/shapes/conv4/relational/1/resume.pt"),
)
HISTORY = Path("runs/history/shapes/conv4/relational/1.csv")
NO_DYNAMICS = Dynamics(every=0, images=50)
BIN = Path(sys.executable).parent


@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 300))
def test_shares_cover_a_mini_batch_once_and_are_as_even_as_can_be(size: int, images: int, fewer: int) -> None:
    shares = [list(range(images))[Group(rank, size).share(images)] for rank in range(size)]
    assert [image for share in shares for image in share] == list(range(images))
    sizes = list(map(len, shares))
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0 or images < size
    smaller = min(images, fewer)
    for rank in range(size):
        assert len(range(smaller)[Group(rank, size).share(smaller)]) <= sizes[rank]
        assert Group(0, size).share(images, rank) == Group(rank, size).share(images)
    assert list(range(images))[Group().share(images)] == list(range(images))


@pytest.mark.parametrize(("resident", "on_device"), [(True, False), (False, False), (True, True)])
def test_the_views_of_the_shares_are_those_of_one_process(tmp_path: Path, resident: bool, on_device: bool) -> None:
    golden.write_pictures(tmp_path / "train.beton", distributed_worker.PICTURES)
    data = Beton(tmp_path / "train.beton", threads=1, resident_bytes=1 << 30 if resident else 0)
    shapes, settings = golden.PARAMS.datasets["shapes"], golden.small("relational")
    K = 3

    def batches(group: Group, first_step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        feed = Feed(
            data, shapes, settings.augmentation, views=K, batch_size=distributed_worker.BATCH, seed=1, device="cpu",
            on_device=on_device, share=group.share,
        )  # fmt: skip
        return [
            (feed.augment(*inputs).numpy().reshape(K, -1, 3, 32, 32).copy(), labels.numpy())
            for inputs, labels in feed.epoch(1, first_step)
        ]

    for size, first_step in ((2, 0), (3, 1), (5, 2)):
        whole = batches(Group(), first_step)
        shares = [batches(Group(rank, size), first_step) for rank in range(size)]
        assert [len(labels) for _, labels in whole] == [8, 8, 5][first_step:]
        for step, (views, labels) in enumerate(whole):
            np.testing.assert_array_equal(np.concatenate([share[step][0] for share in shares], 1), views)
            for share in shares:
                np.testing.assert_array_equal(share[step][1], labels)


def test_a_synchronised_batch_norm_is_torchs_on_all_values() -> None:
    codes, _, err = distributed_worker.ended(distributed_worker.start(2, [sys.executable, SCRIPT, "norms"]))
    assert codes == [0, 0], err


def test_two_processes_train_step_by_step_as_one(tmp_path: Path) -> None:
    """`python tests/distributed_worker.py compare 3 resnet8` does it by any number, with any backbone, for every method."""
    for name, found in distributed_worker.train_by(2, tmp_path, distributed_worker.SOME).items():
        expected = distributed_worker.trained(name, tmp_path / "train.beton", tmp_path / "alone" / name, Group())
        assert len(found["losses"]) == len(expected["losses"]) == 6
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-10, err_msg=name)
        # Adam makes whole steps of the rounding errors that are the gradient of a bias before a batch norm.
        for kind in ("weights", "buffers"):
            np.testing.assert_allclose(found[kind], expected[kind], rtol=1e-9, atol=1e-9, err_msg=f"{name}, {kind}")
        assert np.isfinite(found["history"]).all()
        # With the norms of gradients, whose size Adam does not mind.
        np.testing.assert_allclose(found["history"], expected["history"], rtol=1e-9, err_msg=name)


def rr_several(size: int, *arguments: object, own: Sequence[dict[str, str]] = ()) -> list[subprocess.Popen]:
    return distributed_worker.start(size, [sys.executable, "-m", "rr", *arguments], *own)


def torchrun(*arguments: object) -> list[str]:
    return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "rr", *map(str, arguments)]


def workers(launcher: int) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [pid for pid in map(int, children) if b"--dataset" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for(ready: Callable[[], bool], process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def ready(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own with converted data, one thread a process, and a training of four epochs of seven steps."""
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    monkeypatch.chdir(folder)
    write_params(folder, small)
    return folder


def small(params: dict) -> None:
    params["threads"] = 1
    params["methods"]["relational"].update(views=2, epochs=4)


def artefacts() -> dict[str, bytes]:
    files = [FOLDER / "backbone.safetensors", FOLDER / "views.png", HISTORY]
    return {file.name: file.read_bytes() for file in files}


def step_of(said: str) -> tuple[int, int]:
    """Where a run went on, by its own words."""
    found = re.findall(r"(?:continuing|stopping) in epoch (\d+) at step (\d+)", said)
    assert len(found) == 1, said  # one process says it
    return int(found[0][0]), int(found[0][1])


def test_torchrun_trains_one_run_that_survives_signals_and_kills(ready: Path, rr: Rr) -> None:
    codes, out, err = distributed_worker.ended(rr_several(2, *PRETRAIN))
    assert codes == [0, 0], err
    assert out.count("1,600 views") == 1
    undisturbed, record = artefacts(), json.loads((FOLDER / "run.json").read_text())
    assert record["processes"] == 2
    assert record["views"] == 200 * 2 * 4
    assert not list(Path("runs").rglob("*.pt"))
    assert not list(Path(".rr/status").rglob("*.json"))

    shutil.rmtree("runs")

    # A signal that only the second process gets: both end after the same step, with one state and one message.
    pair = rr_several(2, *PRETRAIN)
    wait_for(RESUME.exists, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    codes, out, err = distributed_worker.ended(pair)
    assert codes == [143, 143], err
    assert err.count("rr: terminated: run the same command again to continue") == 1
    stopped = step_of(out)

    # Everything is killed at once, torchrun too.
    launcher = subprocess.Popen(torchrun(*PRETRAIN), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    inode = RESUME.stat().st_ino
    # Between its two renames there is none.
    wait_for(lambda: RESUME.exists() and RESUME.stat().st_ino != inode, launcher)
    for pid in [*workers(launcher.pid), launcher.pid]:
        os.kill(pid, signal.SIGKILL)
    assert step_of(launcher.communicate()[0]) == stopped

    done = subprocess.run(torchrun(*PRETRAIN), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert step_of(done.stdout) > stopped
    assert artefacts() == undisturbed
    assert not list(Path("runs").rglob("*.pt"))
    assert not list(Path().rglob(".*.tmp*"))

    assert rr(*EVALUATE, "knn").code == 0
    # One process finds the figures of two, but for rounding, which grows from epoch to epoch (1e-5 to 2e-3 measured).
    two = np.genfromtxt(HISTORY, delimiter=",", names=True)
    assert rr(*PRETRAIN).code == 0
    assert json.loads((FOLDER / "run.json").read_text())["processes"] == 1
    one = np.genfromtxt(HISTORY, delimiter=",", names=True)
    assert (abs(two["loss"] / one["loss"] - 1) < [1e-4, 1e-3, 1e-2, 2e-2]).all(), (two["loss"], one["loss"])
    assert two["pairs"].tolist() == one["pairs"].tolist()


@pytest.mark.parametrize("times", [{signal.SIGUSR1: 1}, {signal.SIGTERM: 2}])
def test_a_signal_to_all_processes_waits_for_the_first_to_save(ready: Path, times: dict[signal.Signals, int]) -> None:
    """As from Slurm, which signals torchrun and its workers; torchrun then passes a SIGTERM on to them.

    torchrun ignores SIGUSR1, because the Snakefile does.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        slow = [*torchrun()[:-2], str(SCRIPT), "slowly", *PRETRAIN]
        launcher = subprocess.Popen(slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_for(RESUME.exists, launcher)
    inode = RESUME.stat().st_ino
    for number, count in times.items():
        for pid in [launcher.pid, *workers(launcher.pid)] * count:
            os.kill(pid, number)
    out, err = launcher.communicate(timeout=60)
    stopped = step_of(out)
    assert RESUME.stat().st_ino != inode, err
    done = subprocess.run(torchrun(*PRETRAIN), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert step_of(done.stdout) == stopped


def test_no_process_ends_before_the_first_has_saved(ready: Path) -> None:
    """torchrun kills what has not ended half a minute after the first end."""
    pair = distributed_worker.start(2, [sys.executable, SCRIPT, "slowly", *PRETRAIN])
    wait_for(RESUME.exists, pair[0])
    inode = RESUME.stat().st_ino
    for process in pair:
        process.send_signal(signal.SIGUSR1)
    pair[1].wait(60)
    assert RESUME.stat().st_ino != inode
    assert distributed_worker.ended(pair)[0] == [138, 138]


def test_another_number_of_processes_goes_on(ready: Path, rr: Rr) -> None:
    pair = rr_several(2, *PRETRAIN)
    wait_for(RESUME.exists, pair[0])
    pair[0].send_signal(signal.SIGUSR1)
    codes, out, err = distributed_worker.ended(pair)
    assert codes == [138, 138], err
    codes, said, err = distributed_worker.ended(rr_several(3, *PRETRAIN))
    assert codes == [0, 0, 0], err
    assert step_of(said) == step_of(out)
    record = json.loads((FOLDER / "run.json").read_text())
    assert (record["processes"], record["views"]) == (3, 1600)


LOST = "rr: another process of this run has ended, or does not answer"


def test_a_process_that_is_killed_ends_the_others_with_a_message(ready: Path) -> None:
    pair = rr_several(2, *PRETRAIN)
    wait_for(RESUME.exists, pair[0])
    pair[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes, _, err = distributed_worker.ended(pair)
    assert time.monotonic() - began < 30
    assert codes == [2, -signal.SIGKILL]
    assert err.count(LOST) == err.count("rr: ") == 1
    assert "Traceback" not in err
    assert RESUME.exists()
    assert not (FOLDER / "run.json").exists()
    (job,) = status.jobs()
    assert (job["state"], job["error"][:50]) == ("failed", LOST.removeprefix("rr: ")[:50])


def test_a_process_that_hangs_ends_the_others_and_one_speaks() -> None:
    trio = distributed_worker.start(3, [sys.executable, SCRIPT, "hang", 8])
    hanging = trio.pop()
    codes, _, err = distributed_worker.ended(trio)
    hanging.kill()
    hanging.communicate()
    assert codes == [2, 2], err
    assert err.count(LOST) == err.count("rr: ") == 1


def other_parameters(folder: Path) -> dict[str, str]:
    (folder / "other").mkdir()
    write_params(folder / "other", lambda params: (small(params), params["methods"]["relational"].update(views=3)))
    return {"RR_PARAMS": "other/params.yaml"}


def other_code(folder: Path) -> dict[str, str]:
    shutil.copytree(ROOT / "rr", folder / "other/rr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder / "other")
    with open(folder / "other/rr/methods/relation/dot_product.py", "a") as module:
        module.write("# another version\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder / "other"), os.environ["PYTHONPATH"]])}


@pytest.mark.parametrize(("other", "what"), [(other_parameters, "parameters"), (other_code, "code")])
def test_processes_that_differ_are_refused_before_training(
    ready: Path, other: Callable[[Path], dict[str, str]], what: str
) -> None:
    codes, out, err = distributed_worker.ended(rr_several(2, *PRETRAIN, own=({}, other(ready))))
    assert codes == [2, 2]
    assert out == ""
    (message,) = (line for line in err.splitlines() if line.startswith("rr: "))
    assert f"process 1 of this run has not the same {what} as process 0" in message
    assert "Traceback" not in err
    assert not list(Path("runs").rglob("*.*"))


def test_a_finished_run_outlives_a_start_that_is_refused(ready: Path, rr: Rr) -> None:
    assert rr(*PRETRAIN).code == 0
    finished = {path: path.read_bytes() for path in Path("runs").rglob("*.*")}
    assert FOLDER / "run.json" in finished
    codes, _, err = distributed_worker.ended(rr_several(2, *PRETRAIN, own=({}, other_parameters(ready))))
    assert codes == [2, 2], err
    assert {path: path.read_bytes() for path in Path("runs").rglob("*.*")} == finished


def test_processes_that_would_go_on_from_different_states_are_refused(ready: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ready, elsewhere)
    pair = rr_several(2, *PRETRAIN)
    wait_for(RESUME.exists, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    assert distributed_worker.ended(pair)[0] == [143, 143]
    state = RESUME.read_bytes()
    command = [sys.executable, "-m", "rr", *PRETRAIN]
    codes, _, err = distributed_worker.ended(distributed_worker.start(2, command, folders=[ready, elsewhere]))
    assert codes == [2, 2]
    assert f"process 1 of this run has not the same state in {RESUME} as process 0" in err
    assert RESUME.read_bytes() == state
    assert not (elsewhere / RESUME).exists()


def test_processes_with_other_pictures_are_refused(ready: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ready, elsewhere)
    write_params(elsewhere, lambda params: (small(params), params["datasets"]["shapes"]["source"].update(seed=5)))
    rr = [sys.executable, "-m", "rr"]
    for stage in ("fetch", "convert"):
        subprocess.run([*rr, stage, "--dataset", "shapes"], cwd=elsewhere, check=True, capture_output=True)
    codes, _, err = distributed_worker.ended(distributed_worker.start(2, [*rr, *PRETRAIN], folders=[ready, elsewhere]))
    assert codes == [2, 2]
    assert "process 1 of this run has not the same data as process 0" in err
    assert not list(Path("runs").rglob("*.*"))


def refused(settings: object, size: int, place: Path, pictures: int = 21) -> str:
    """What the first of so many processes says before it has met any other."""
    golden.write_pictures(place / "train.beton", pictures)
    job = loop.Job(golden.PARAMS.datasets["shapes"], "conv4", settings, 10, 1, "float32", NO_DYNAMICS, "test")  # type: ignore[arg-type]
    outputs = golden.Outputs("shapes", "conv4", "method", 1, place)
    with pytest.raises(UserError) as error:
        loop.pretrain(job, place / "train.beton", outputs, device="cpu", threads=1, group=Group(0, size))
    assert not outputs.weights.exists()
    assert not outputs.views.exists()
    return str(error.value)


def test_mini_batches_too_small_for_the_processes_are_refused(tmp_path: Path) -> None:
    assert "5 processes cannot share mini-batches of 4 pictures" in refused(
        golden.small("relational", batch_size=4), 5, tmp_path
    )
    assert "30 processes cannot share mini-batches of 21 pictures" in refused(
        golden.small("relational", batch_size=64), 30, tmp_path
    )
    assert "21 pictures in batches of 19 leave a last batch of 2, too few for 3 processes" in refused(
        golden.small("relational", batch_size=19), 3, tmp_path
    )


def test_a_method_that_several_processes_cannot_train_is_named(tmp_path: Path) -> None:
    assert "the infomax method cannot be trained by 2 processes" in refused(
        golden.small("infomax", batch_size=8), 2, tmp_path
    )


def test_an_environment_that_is_not_torchruns_is_refused(ready: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for variable in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RANK=(unset), WORLD_SIZE=2" in outcome.err
    assert "start rr by torchrun" in outcome.err
    for variable, value in {"RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(variable, value)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RANK=2 is no process of WORLD_SIZE=2" in outcome.err
    monkeypatch.setenv("RR_GPUS", "0,1")
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "RR_GPUS shows a run one GPU" in outcome.err
    monkeypatch.delenv("RR_GPUS")
    for port in ("abc", "0", "65536"):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("MASTER_PORT", port)
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert f"MASTER_PORT={port}" in outcome.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("stage", ["fetch", "convert", "evaluate", "report"])
def test_what_one_process_makes_is_refused_to_several(
    ready: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    words = {"evaluate": (*EVALUATE, "knn"), "report": ("report",)}.get(stage, (stage, "--dataset", "shapes"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        outcome = rr(*words)
        assert outcome.code == 2
        said.append(outcome.err)
    assert f"{stage} is made by one process, and this is one of 2 (WORLD_SIZE)" in said[0]
    assert said[1] == ""


def test_a_port_that_is_taken_is_named(ready: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        [first, second] = rr_several(2, *PRETRAIN, own=[{"MASTER_PORT": port}] * 2)
        _, err = first.communicate(timeout=60)
        second.kill()
        second.communicate()
    assert first.returncode == 2
    [message] = (line for line in err.splitlines() if line.startswith("rr: "))
    assert f"the 2 processes of this run did not meet at 127.0.0.1:{port}" in message
    assert "a port that is free" in message
    assert "Traceback" not in err


def test_a_process_that_waits_for_the_others_can_be_stopped(ready: Path) -> None:
    pair = rr_several(2, *PRETRAIN)
    os.kill(pair[1].pid, signal.SIGKILL)
    wait_for(lambda: signal.SIGTERM in caught(pair[0].pid), pair[0])
    wait_for(lambda: signal.SIGTERM not in caught(pair[0].pid), pair[0])  # it has begun to wait
    pair[0].send_signal(signal.SIGTERM)
    began = time.monotonic()
    distributed_worker.ended(pair)
    assert time.monotonic() - began < 10
    assert pair[0].returncode == -signal.SIGTERM
    assert not list(Path("runs").rglob("*.*"))


def caught(pid: int) -> set[int]:
    """The signals that a process has handlers for."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_one_gpu_is_too_few_for_two_processes() -> None:
    assert Group().device("cuda:1") == "cuda:1"
    assert Group(1, 2, 1).device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda:1 is one GPU, and 2 processes need one each"):
        Group(1, 2, 1).device("cuda:1")
