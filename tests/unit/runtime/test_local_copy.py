"""Tests for copies of betons on a local disk: they do not change results, and only verified copies are used."""

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import EVALUATE, EXTRACT, PRETRAIN, RunRr, write_params

from rr.data import beton
from rr.errors import UserError, explain_os_error
from rr.runtime.hashing import file_sha256
from rr.runtime.local_copy import ensure_local_copy


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Waits for a line on stdin, then requests a copy. Prints "half" when half of the file is copied, and then sleeps.
REQUEST = """
import shutil, sys, time
from pathlib import Path
from rr.runtime.local_copy import ensure_local_copy

def copyfile(source, target):
    content = Path(source).read_bytes()
    with open(target, "wb") as file:
        file.write(content[:len(content) // 2])
        file.flush()
        print("half", flush=True)
        time.sleep(float(sys.argv[3]))
        file.write(content[len(content) // 2:])

shutil.copyfile = copyfile
print("ready", flush=True)
input()
print(ensure_local_copy(Path(sys.argv[1]), sys.argv[2]), flush=True)
"""


StartProcess = Callable[[Path, float], subprocess.Popen[str]]


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """Return a function that starts a process and waits until the process is ready to request a copy.

    While the process copies, it pauses for a number of seconds. It is killed after the test.
    """
    with ExitStack() as stack:

        def start(original: Path, seconds: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", REQUEST, str(original), file_sha256(original), str(seconds)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


def send_request(process: subprocess.Popen[str]) -> None:
    """Make a process from `start_process` request its copy."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_no_copy_without_rr_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RR_SCRATCH", raising=False)
    assert ensure_local_copy(tmp_path / "a.beton", "0") == tmp_path / "a.beton"


def test_copy_is_reused_and_replaced_if_damaged(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 10_000_000)  # larger than the buffers for copying and hashing
    copy = ensure_local_copy(original, file_sha256(original))
    assert copy.parent == scratch
    assert copy.read_bytes() == original.read_bytes()
    before = copy.stat()
    assert ensure_local_copy(original, file_sha256(original)) == copy
    assert copy.stat().st_ino == before.st_ino
    copy.write_bytes(b"pixelz" * 10_000_000)
    assert ensure_local_copy(original, file_sha256(original)).read_bytes() == original.read_bytes()
    assert names(scratch) == [f"{file_sha256(original)}.beton", f"{file_sha256(original)}.lock"]


def test_file_with_another_hash_is_not_copied(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "a.beton").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.beton changed while it was copied"):
        ensure_local_copy(tmp_path / "a.beton", "0" * 64)
    assert names(scratch) == [f"{'0' * 64}.lock"]


def test_concurrent_processes_copy_once(tmp_path: Path, scratch: Path, start_process: StartProcess) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    processes = [start_process(original, 1.0) for _ in range(4)]
    for process in processes:
        send_request(process)
    outputs = [process.communicate(timeout=100)[0].splitlines() for process in processes]
    copy = scratch / f"{file_sha256(original)}.beton"
    assert sorted(outputs) == sorted([["half", str(copy)], *[[str(copy)]] * 3])
    assert copy.read_bytes() == original.read_bytes()


def test_copy_made_before_the_lock_was_acquired_is_used(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels")
    copy = scratch / f"{file_sha256(original)}.beton"
    monkeypatch.setattr(fcntl, "flock", lambda *_: copy.write_bytes(b"pixels"))
    monkeypatch.delattr(shutil, "copyfile")
    assert ensure_local_copy(original, file_sha256(original)) == copy


def test_incomplete_copy_of_a_killed_process_is_replaced(
    tmp_path: Path, scratch: Path, start_process: StartProcess
) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    first, second = start_process(original, 100), start_process(original, 0)
    send_request(first)
    assert first.stdout
    assert first.stdout.readline() == "half\n"
    send_request(second)  # it waits
    incomplete = [path for path in scratch.iterdir() if path.stat().st_size]
    assert [path.stat().st_size for path in incomplete] == [3000]
    first.kill()
    copy = scratch / f"{file_sha256(original)}.beton"
    assert second.communicate(timeout=100)[0].splitlines() == ["half", str(copy)]
    assert names(scratch) == [copy.name, f"{file_sha256(original)}.lock"]
    assert copy.read_bytes() == original.read_bytes()


def test_error_names_the_copy_if_it_is_too_large(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            ensure_local_copy(original, file_sha256(original))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"file too large at {scratch / file_sha256(original)}.beton: " in str(explain_os_error(error.value))
    assert names(scratch) == [f"{file_sha256(original)}.lock"]


def test_file_system_without_locks_raises(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "a.beton").write_bytes(b"pixels")
    with pytest.raises(UserError, match=f"{scratch}: the file system does not support file locks .*: set RR_SCRATCH"):
        ensure_local_copy(tmp_path / "a.beton", file_sha256(tmp_path / "a.beton"))


def test_missing_scratch_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"RR_SCRATCH=.*nowhere is not a folder on this machine"):
        ensure_local_copy(tmp_path / "a.beton", "0")


def test_stages_read_the_copies_and_write_equal_outputs(
    converted_project: Path, tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    opened: list[Path] = []
    check = beton.validate
    monkeypatch.setattr(beton, "validate", lambda path: opened.append(path) or check(path))
    outputs = {}
    for name in ("shared", "local"):
        shutil.copytree(converted_project, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        write_params(tmp_path / name, lambda params: params["methods"]["relational"].update(epochs=1, views=2))
        if name == "shared":
            monkeypatch.delenv("RR_SCRATCH")
        else:
            monkeypatch.setenv("RR_SCRATCH", str(scratch))
        opened.clear()
        for command in (PRETRAIN, EXTRACT, (*EVALUATE, "knn")):
            outcome = rr(*command)
            assert outcome.code == 0, outcome.err
        outputs[name] = [
            json.loads(record.read_text())["outputs"] for record in sorted((tmp_path / name / "runs").rglob("run.json"))
        ]
        assert {path.parent == scratch for path in opened} == {name == "local"}
    assert outputs["local"] == outputs["shared"]
    assert len(list(scratch.glob("*.beton"))) == 2
