"""Tests of the lock that lets only one process write to a folder."""

import threading
from pathlib import Path

import pytest

from rr.errors import UserError
from rr.runtime.lock import exclusive_lock


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
