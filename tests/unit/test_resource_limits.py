"""Tests for full disks, missing permissions, too little memory, concurrent processes and clock changes."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import EVALUATE, EXTRACT, PRETRAIN, RunRr, enter_copy, mount_tmpfs, write_params

from rr import commands

STAGES = {
    "data/raw": ("fetch", "--dataset", "shapes"),
    "data/beton": ("convert", "--dataset", "shapes"),
    "runs/pretrain": PRETRAIN,
    "runs/features": EXTRACT,
    "runs/evaluate": (*EVALUATE, "knn"),
    "report": ("report",),
}


@pytest.fixture(scope="module")
def finished_project(converted_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages of a small grid have run."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(converted_project, folder)
    write_params(folder, shrink_grid)
    for command in list(STAGES.values())[2:]:
        subprocess.run([sys.executable, "-m", "rr", *command], cwd=folder, check=True)
    return folder


def shrink_grid(params: dict) -> None:
    params["grid"].update(method=["relational"], protocol=["knn"])
    params["methods"]["relational"].update(epochs=1, views=2)


@pytest.fixture
def project_copy(finished_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the finished project and make the copy the current folder."""
    return enter_copy(finished_project, tmp_path / "project", monkeypatch)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files except the records and the last checkpoints, which contain times."""
    files = (path for path in folder.rglob("*") if path.is_file() and not {".rr", "resume"} & set(path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "run.json"}


@pytest.mark.parametrize("folder", STAGES)
def test_full_disk_raises_and_leaves_no_damaged_files(
    project_copy: Path, rr: RunRr, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "find_machine_problems", lambda params, device: [])  # it would detect the full disk
    before = read_files(project_copy)
    shutil.rmtree(project_copy / folder)
    with mount_tmpfs(project_copy / folder, "size=4k,nr_inodes=40"):
        outcome = rr(*STAGES[folder])
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith("rr: no space left on the disk")
        remaining = read_files(project_copy)
        assert remaining == {name: content for name, content in before.items() if not name.startswith(f"{folder}/")}
        assert not (project_copy / folder / "run.json").exists()
    assert rr(*STAGES[folder]).code == 0
    assert read_files(project_copy) == before


def test_full_scratch_disk_raises_and_changes_nothing(
    project_copy: Path, tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("runs/pretrain")
    before = read_files(project_copy)
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "scratch"))
    with mount_tmpfs(tmp_path / "scratch", "size=4k,nr_inodes=40"):
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith(f"rr: no space left on the disk at {tmp_path / 'scratch'}/")
    assert read_files(project_copy) == before


@pytest.mark.parametrize("folder", STAGES)
def test_read_only_folder_raises(project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(commands, "find_mismatches", lambda run: ["the code has changed"])  # pretraining is not skipped
    before = read_files(project_copy)
    saved = project_copy.with_name("saved")
    shutil.copytree(project_copy / folder, saved)
    with mount_tmpfs(project_copy / folder, "size=64m"):
        shutil.copytree(saved, project_copy / folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(project_copy / folder)], check=True)
        outcome = rr(*STAGES[folder])
        assert outcome.code == 2
        assert outcome.err.startswith("rr: the file system is read-only at")
        assert read_files(project_copy) == before


@pytest.mark.slow
@pytest.mark.parametrize("folder", STAGES)
def test_file_size_limit_raises(project_copy: Path, folder: str) -> None:
    """The limit acts like `ulimit -f`, or like the maximum file size of an old file system."""
    shutil.rmtree(project_copy / folder)
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); from rr import cli; cli.run()"
    process = subprocess.run([sys.executable, "-c", code, *STAGES[folder]], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert "rr: file too large" in process.stderr
    assert "(`ulimit -f`) allows" in process.stderr
    # The thread that shows the progress may be writing its status when the process ends.
    assert not [path for path in project_copy.rglob("*.tmp*") if ".rr/status" not in path.as_posix()]


# The limit is set after everything has been loaded, so that only the training step needs more memory.
LIMITED_MEMORY = """
import resource
from rr import cli
from rr.pretrain import loop

Trainer = loop.Trainer

def limit_memory_and_train(*arguments):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (400 << 20),) * 2)
    return Trainer(*arguments)

loop.Trainer = limit_memory_and_train
cli.run()
"""


@pytest.mark.slow
def test_out_of_memory_raises(project_copy: Path) -> None:
    def change(params: dict) -> None:
        shrink_grid(params)
        params["methods"]["relational"].update(views=200, batch_size=200)

    write_params(project_copy, change)
    process = subprocess.run([sys.executable, "-c", LIMITED_MEMORY, *PRETRAIN], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    assert "rr: out of memory: use a machine or GPU with more memory" in process.stderr
    assert not list((project_copy / "runs").rglob("*.tmp*"))


def test_only_a_running_process_holds_its_lock(project_copy: Path, rr: RunRr) -> None:
    folder = "runs/pretrain/shapes/conv4/relational/1"
    shutil.rmtree(folder)
    code = f"""
import time
from pathlib import Path
from rr.runtime.lock import exclusive_lock
with exclusive_lock(Path('{folder}')):
    print('locked', flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert f"process {holder.pid} is writing to {folder}: wait until it has finished" in outcome.err
    finally:
        holder.kill()
        holder.wait()
    assert str(holder.pid) in (project_copy / ".rr/lock" / folder / "lock").read_text()  # its id is still in the file
    assert rr(*PRETRAIN).code == 0
    with open(project_copy / ".rr/lock" / folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_report_names_the_runs_with_other_parameters(project_copy: Path, rr: RunRr) -> None:
    assert rr("report").err == ""

    def change(params: dict) -> None:
        shrink_grid(params)
        params["methods"]["relational"].update(epochs=7)

    write_params(project_copy, change)
    outcome = rr("report")
    assert outcome.code == 0
    assert outcome.err == (
        "report: the parameters of 1 run differ from params.yaml (runs/pretrain/shapes/conv4/relational/1): run dvc "
        "repro to rerun them\n"
    )


@pytest.mark.slow
def test_only_one_of_several_processes_writes_an_artifact(project_copy: Path) -> None:
    before = read_files(project_copy)
    shutil.rmtree("runs/pretrain")
    command = [sys.executable, "-m", "rr", *PRETRAIN]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    exits = {process.communicate()[1]: process.returncode for process in processes}
    assert 0 in exits.values()
    assert all(code == 0 or "is writing to runs/pretrain" in message for message, code in exits.items())
    assert read_files(project_copy) == before


@pytest.mark.parametrize("jump", [-(10.0**6), 10.0**6])
def test_clock_changes_do_not_change_the_outputs(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """`time.time` can go backwards, and `time.monotonic` can stop or jump when a laptop sleeps."""
    before = read_files(project_copy)
    monkeypatch.setattr(time, "time", make_jumping(time.time, jump))
    monkeypatch.setattr(time, "monotonic", make_jumping(time.monotonic, jump))
    for folder, command in STAGES.items():
        shutil.rmtree(project_copy / folder)
        outcome = rr(*command)
        assert outcome.code == 0, outcome.err
    # The page shows times and durations. All other files are unchanged.
    changed = {name for name, content in read_files(project_copy).items() if before[name] != content}
    assert changed <= {"report/index.html", "report/report.md"}


def make_jumping(clock: Callable[[], float], jump: float) -> Callable[[], float]:
    """Return `clock` with a jump of `jump` seconds at every third call."""
    calls = 0

    def jumping_clock() -> float:
        nonlocal calls
        calls += 1
        return clock() + jump * (calls // 3)

    return jumping_clock


# Prints, after each epoch, the number of threads and the anonymous memory in KiB. Pages of mapped files do not count,
# because the kernel can reclaim them.
MONITORED = """
import os, sys
import rr.data.beton
from rr import cli
from rr.pretrain import loop

rr.data.beton.Beton.__init__.__kwdefaults__["max_resident_bytes"] = int(sys.argv.pop(1))
save_checkpoint = loop.save_checkpoint

def save_and_print_usage(*arguments):
    save_checkpoint(*arguments)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    # Include swapped memory, because the kernel may swap out idle pages.
    memory = sum(int(status[key].split()[0]) for key in ("RssAnon", "VmSwap"))
    print("usage", memory, len(os.listdir("/proc/self/task")), file=sys.stderr)

loop.save_checkpoint = save_and_print_usage
cli.run()
"""


def monitor_pretraining(resident_bytes: int) -> list[tuple[int, int]]:
    """Pretrain, and return the memory in MiB and the number of threads after each epoch."""
    command = [sys.executable, "-c", MONITORED, str(resident_bytes), *PRETRAIN]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in process.stderr.splitlines() if line.startswith("usage ")]
    return [(int(memory) // 1024, int(threads)) for _, memory, threads in lines]


needs_memory_counters = pytest.mark.skipif(
    not {"RssAnon:", "VmSwap:"} <= set(Path("/proc/self/status").read_text().split()),
    reason="this system does not report the anonymous memory of a process",
)


@pytest.mark.slow
@needs_memory_counters
@pytest.mark.parametrize("resident_bytes", [0, 1 << 30], ids=["streamed", "resident"])
def test_fifty_epochs_leak_no_memory_or_threads(project_copy: Path, resident_bytes: int) -> None:
    def change(params: dict) -> None:
        shrink_grid(params)
        params["methods"]["relational"]["epochs"] = 50

    write_params(project_copy, change)
    shutil.rmtree("runs")  # otherwise, the run would continue from the finished one
    usage = monitor_pretraining(resident_bytes)
    assert len(usage) == 50
    assert max(threads for _, threads in usage[10:]) <= usage[9][1]
    assert usage[-1][0] - usage[9][0] < 12, usage


@pytest.mark.slow
@needs_memory_counters
def test_memory_does_not_grow_with_a_streamed_split(project: Path, rr: RunRr) -> None:
    """A split with seven times as many images (37 MB more pixels) needs the same memory."""

    def change(count: int) -> Callable[[dict], None]:
        def alter(params: dict) -> None:
            shrink_grid(params)
            params["datasets"]["shapes"]["source"].update(train=count, test=10)
            params["datasets"]["shapes"]["image_size"] = 64
            # The same number of steps for both, because peak memory grows slowly in the first steps.
            params["methods"]["relational"].update(batch_size=50, epochs=3500 // count)

        return alter

    def pretrain_again() -> list[tuple[int, int]]:
        shutil.rmtree("runs", ignore_errors=True)
        return monitor_pretraining(0)

    peaks = []
    for count in (500, 3500):
        write_params(project, change(count))
        for stage in ("data/raw", "data/beton"):
            assert rr(*STAGES[stage]).code == 0
        # The lower of two training runs, because the threads use varying amounts of memory at the same time.
        peaks.append(min(max(memory for memory, _ in pretrain_again()) for _ in range(2)))
    assert os.path.getsize("data/beton/shapes/train.beton") > 40 << 20
    assert peaks[1] - peaks[0] < 12, peaks
