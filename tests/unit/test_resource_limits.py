"""A machine that has no room left: disk, memory, permission, another process, a clock that is set."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import EVALUATE, PRETRAIN, Rr, write_params

STAGES = {
    "data/raw": ("fetch", "--dataset", "shapes"),
    "data/beton": ("convert", "--dataset", "shapes"),
    "runs/pretrain": PRETRAIN,
    "runs/evaluate": (*EVALUATE, "knn"),
    "report": ("report",),
}


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A small disk at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        disk = os.statvfs(place)
        if disk.f_blocks * disk.f_frsize > 128 << 20:  # a sandbox that mounts it and gives it all the room there is
            pytest.skip("this system does not limit a small disk")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def made(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage of a small grid has run."""
    folder = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(converted, folder)
    write_params(folder, small)
    for command in list(STAGES.values())[2:]:
        subprocess.run([sys.executable, "-m", "rr", *command], cwd=folder, check=True)
    return folder


def small(params: dict) -> None:
    params["grid"].update(method=["relational"], protocol=["knn"])
    params["methods"]["relational"].update(epochs=1, views=2)


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """Every file but the records, which hold times."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".rr" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "run.json"}


@pytest.mark.parametrize("folder", STAGES)
def test_a_full_disk(place: Path, rr: Rr, folder: str) -> None:
    before = everything(place)
    shutil.rmtree(place / folder)
    with mounted(place / folder, "size=4k,nr_inodes=40"):
        outcome = rr(*STAGES[folder])
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith("rr: no space left on the disk")
        # What was whole before there was no room may stay; there is no record of it.
        left = everything(place)
        assert all(before[name] == content for name, content in left.items())
        assert len(left) < len(before)
        assert not (place / folder / "run.json").exists()
    assert rr(*STAGES[folder]).code == 0
    assert everything(place) == before


def test_a_full_disk_of_copies(place: Path, tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(place)
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "scratch"))
    with mounted(tmp_path / "scratch", "size=4k,nr_inodes=40"):
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith(f"rr: no space left on the disk at {tmp_path / 'scratch'}/")
    assert everything(place) == before


@pytest.mark.parametrize("folder", STAGES)
def test_a_folder_that_is_read_only(place: Path, rr: Rr, folder: str) -> None:
    before = everything(place)
    kept = place.with_name("kept")
    shutil.copytree(place / folder, kept)
    with mounted(place / folder, "size=64m"):
        shutil.copytree(kept, place / folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(place / folder)], check=True)
        outcome = rr(*STAGES[folder])
        assert outcome.code == 2
        assert outcome.err.startswith("rr: not allowed to write or read at")
        assert everything(place) == before


@pytest.mark.parametrize("folder", STAGES)
def test_a_file_larger_than_is_allowed(place: Path, folder: str) -> None:
    """As on a disk of an old format, or under `ulimit -f`."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); from rr import cli; cli.main()"
    done = subprocess.run([sys.executable, "-c", limit, *STAGES[folder]], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "rr: a file grows larger than" in done.stderr
    assert not list(place.rglob("*.tmp*"))


# Everything is loaded before the limit is set: what a network of too large a batch asks for comes last.
LIMITED = """
import resource, sys
from rr import cli, pretrain
from rr.pretrain import _train as train

def limited(*arguments):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (400 << 20),) * 2)
    return train(*arguments)

pretrain._train = limited
cli.main()
"""


def test_too_little_memory(place: Path) -> None:
    def change(params: dict) -> None:
        small(params)
        params["methods"]["relational"].update(views=200, batch_size=200)

    write_params(place, change)
    done = subprocess.run([sys.executable, "-c", LIMITED, *PRETRAIN], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "rr: out of memory: lower batch_size or views of the method in params.yaml" in done.stderr
    assert not list((place / "runs").rglob("*.tmp*"))


def test_two_processes_and_the_lock_of_a_dead_one(place: Path, rr: Rr) -> None:
    folder = "runs/pretrain/shapes/conv4/relational/1"
    hold = f"import sys, time; from pathlib import Path; from rr.lock import holding\nwith holding(Path('{folder}')):\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{hold}    print('held', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert f"process {holder.pid} is making {folder} right now: wait until it has ended" in outcome.err
    finally:
        holder.kill()
        holder.wait()
    assert str(holder.pid) in (place / ".rr/lock" / folder / "lock").read_text()  # it is still written there
    assert rr(*PRETRAIN).code == 0
    with open(place / ".rr/lock" / folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_processes_at_once_make_one_artefact(place: Path) -> None:
    before = everything(place)
    command = [sys.executable, "-m", "rr", *PRETRAIN]
    three = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = {process.communicate()[1]: process.returncode for process in three}
    assert 0 in ended.values()
    assert all(code == 0 or "is making runs/pretrain" in said for said, code in ended.items())
    assert everything(place) == before


@pytest.mark.parametrize("jump", [-(10.0**6), 10.0**6])
def test_a_clock_that_is_set(place: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """`time.time` may go back, and `time.monotonic` stand still while a laptop sleeps, or go on by days."""
    before = everything(place)
    monkeypatch.setattr(time, "time", jumping(time.time, jump))
    monkeypatch.setattr(time, "monotonic", jumping(time.monotonic, jump))
    for folder, command in STAGES.items():
        shutil.rmtree(place / folder)
        outcome = rr(*command)
        assert outcome.code == 0, outcome.err
    # The page shows when and how long; all else is as it was.
    changed = {name for name, content in everything(place).items() if before[name] != content}
    assert changed <= {"report/index.html", "report/report.md"}


def jumping(clock: Callable[[], float], jump: float) -> Callable[[], float]:
    """`clock`, which every third look moves by `jump`."""
    looks = 0

    def look() -> float:
        nonlocal looks
        looks += 1
        return clock() + jump * (looks // 3)

    return look


# Of each epoch: anonymous memory (KiB, without the pages of mapped files, which the kernel takes back) and threads.
WATCHED = """
import os, sys
import rr.data.beton
from rr import cli, pretrain

rr.data.beton.Beton.__init__.__kwdefaults__["resident_bytes"] = int(sys.argv.pop(1))
save = pretrain.save

def watched(*arguments):
    save(*arguments)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    # With what was swapped out: a kernel may take idle pages back meanwhile.
    memory = sum(int(status[key].split()[0]) for key in ("RssAnon", "VmSwap"))
    print("seen", memory, len(os.listdir("/proc/self/task")), file=sys.stderr)

pretrain.save = watched
cli.main()
"""


def watch(resident: int) -> list[tuple[int, int]]:
    """Memory (MiB) and threads after each epoch of a training."""
    command = [sys.executable, "-c", WATCHED, str(resident), *PRETRAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = [line.split() for line in done.stderr.splitlines() if line.startswith("seen ")]
    return [(int(memory) // 1024, int(threads)) for _, memory, threads in seen]


counted = pytest.mark.skipif(
    not {"RssAnon:", "VmSwap:"} <= set(Path("/proc/self/status").read_text().split()),
    reason="this system does not count a process's own memory",
)


@counted
@pytest.mark.parametrize("resident", [0, 1 << 30], ids=["streamed", "resident"])
def test_fifty_epochs_leak_nothing(place: Path, resident: int) -> None:
    def change(params: dict) -> None:
        small(params)
        params["methods"]["relational"]["epochs"] = 50

    write_params(place, change)
    seen = watch(resident)
    assert len(seen) == 50
    assert max(threads for _, threads in seen[10:]) <= seen[9][1]
    assert seen[-1][0] - seen[9][0] < 12, seen


@counted
def test_memory_does_not_grow_with_a_streamed_split(project: Path, rr: Rr) -> None:
    """Seven times the pictures, 37 MB more of pixels, and the same memory."""

    def change(count: int) -> Callable[[dict], None]:
        def alter(params: dict) -> None:
            small(params)
            params["datasets"]["shapes"]["source"].update(train=count, test=10)
            params["datasets"]["shapes"]["side"] = 64
            # As many steps for both: an allocator's peak creeps up with them at first.
            params["methods"]["relational"].update(batch_size=50, epochs=7000 // count)

        return alter

    def training() -> list[tuple[int, int]]:
        shutil.rmtree("runs", ignore_errors=True)
        return watch(0)

    peaks = []
    for count in (500, 3500):
        write_params(project, change(count))
        for stage in ("data/raw", "data/beton"):
            assert rr(*STAGES[stage]).code == 0
        # The lower of two trainings: what threads happen to hold at once varies, and a split in memory is in both.
        peaks.append(min(max(memory for memory, _ in training()) for _ in range(2)))
    assert os.path.getsize("data/beton/shapes/train.beton") > 40 << 20
    assert peaks[1] - peaks[0] < 12, peaks
