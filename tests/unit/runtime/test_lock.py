"""Tests of the lock that lets only one process write to a folder."""

import fcntl
import shutil
import threading
from pathlib import Path

import pytest

from rr.errors import UserError
from rr.runtime import lock
from rr.runtime.lock import exclusive_lock, try_lock


@pytest.mark.parametrize("wait", [False, True])
def test_lock_is_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool) -> None:
    monkeypatch.chdir(tmp_path)
    release, events = threading.Event(), []

    def write() -> None:
        with exclusive_lock(Path("data/x")):
            locked.set()
            release.wait()
            events.append("first")

    locked = threading.Event()
    thread = threading.Thread(target=write)
    thread.start()
    locked.wait()
    if wait:
        threading.Timer(0.2, release.set).start()
        with exclusive_lock(Path("data/x"), wait=True):
            events.append("second")
        assert events == ["first", "second"]
    else:
        with (
            pytest.raises(UserError, match=r"^process \d+ is writing to data/x: wait until"),
            exclusive_lock(Path("data/x")),
        ):
            pass
        release.set()
    thread.join()
    with exclusive_lock(Path("data/x")):
        pass


def test_file_that_is_deleted_before_it_is_locked_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock, deleted = tmp_path / "locks/lock", fcntl.flock, []

    def delete_first(descriptor: int, operation: int) -> None:
        if not deleted:  # as if the previous holder deleted the file and its folder just before it released the lock
            shutil.rmtree(path.parent)
            deleted.append(path)
        flock(descriptor, operation)

    monkeypatch.setattr(lock.fcntl, "flock", delete_first)
    file = try_lock(path, "")
    assert file is not None
    with file:
        assert deleted
        assert try_lock(path, "") is None


@pytest.mark.parametrize("operation", ["wait_until_unlocked", "read_text"])
def test_file_that_is_deleted_while_it_is_locked_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.chdir(tmp_path)
    owner = lock if operation == "wait_until_unlocked" else Path
    function = getattr(owner, operation)

    def delete_and_release(path: Path) -> object:
        shutil.rmtree(".rr")
        file.close()
        return function(path)

    file = try_lock(Path(".rr/lock/data/x/lock"), "")
    assert file is not None
    monkeypatch.setattr(owner, operation, delete_and_release)
    with exclusive_lock(Path("data/x"), wait=operation == "wait_until_unlocked"):
        assert try_lock(Path(".rr/lock/data/x/lock"), "") is None
