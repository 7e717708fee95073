"""Betons copied to a machine's own disk: the same figures, and never anything but what was recorded."""

import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import EVALUATE, PRETRAIN, Rr, write_params

from rr.data import beton
from rr.errors import UserError, explain_os_error
from rr.runtime.hashing import sha256
from rr.runtime.local_copy import nearby


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Asks for a copy when told to; says when the copying is half done, and goes on when told again.
ASK = """
import shutil, sys, time
from pathlib import Path
from rr import scratch

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
print(scratch.nearby(Path(sys.argv[1]), sys.argv[2]), flush=True)
"""


def ask(original: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that is ready to ask, and would copy for `seconds`."""
    asking = subprocess.Popen(
        [sys.executable, "-c", ASK, str(original), sha256(original), str(seconds)], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert asking.stdout
    assert asking.stdout.readline() == "ready\n"
    return asking


def let(asking: subprocess.Popen[str]) -> None:
    assert asking.stdin
    asking.stdin.write("\n")
    asking.stdin.flush()


def test_without_it_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RR_SCRATCH", raising=False)
    assert nearby(tmp_path / "a.beton", "0") == tmp_path / "a.beton"


def test_a_copy_is_made_once_and_made_anew_where_it_was_damaged(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 10_000_000)  # several pieces
    copy = nearby(original, sha256(original))
    assert copy.parent == scratch
    assert copy.read_bytes() == original.read_bytes()
    before = copy.stat()
    assert nearby(original, sha256(original)) == copy
    assert copy.stat().st_ino == before.st_ino
    copy.write_bytes(b"pixelz" * 10_000_000)
    assert nearby(original, sha256(original)).read_bytes() == original.read_bytes()
    assert names(scratch) == [f"{sha256(original)}.beton", f"{sha256(original)}.lock"]


def test_what_was_not_recorded_is_not_kept(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "a.beton").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.beton changed while it was copied"):
        nearby(tmp_path / "a.beton", "0" * 64)
    assert names(scratch) == [f"{'0' * 64}.lock"]


def test_of_those_that_ask_at_once_one_copies(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    asking = [ask(original, 1.0) for _ in range(4)]
    for one in asking:
        let(one)
    said = [one.communicate(timeout=100)[0].splitlines() for one in asking]
    copy = scratch / f"{sha256(original)}.beton"
    assert sorted(said) == sorted([["half", str(copy)], *[[str(copy)]] * 3])
    assert copy.read_bytes() == original.read_bytes()


def test_a_copy_made_between_two_looks_is_not_made_again(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels")
    copy = scratch / f"{sha256(original)}.beton"
    monkeypatch.setattr(fcntl, "flock", lambda *_: copy.write_bytes(b"pixels"))
    monkeypatch.delattr(shutil, "copyfile")
    assert nearby(original, sha256(original)) == copy


def test_a_copy_that_was_killed_in_the_middle_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    first, second = ask(original, 100), ask(original, 0)
    let(first)
    assert first.stdout
    assert first.stdout.readline() == "half\n"
    let(second)  # and it waits
    half = [path for path in scratch.iterdir() if path.stat().st_size]
    assert [path.stat().st_size for path in half] == [3000]
    first.kill()
    copy = scratch / f"{sha256(original)}.beton"
    assert second.communicate(timeout=100)[0].splitlines() == ["half", str(copy)]
    first.communicate(timeout=100)
    assert names(scratch) == [copy.name, f"{sha256(original)}.lock"]
    assert copy.read_bytes() == original.read_bytes()


def test_the_disk_without_room_is_the_copys(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            nearby(original, sha256(original))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"at {scratch / sha256(original)}.beton: write to another disk" in str(explain_os_error(caught.value))
    assert names(scratch) == [f"{sha256(original)}.lock"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "a.beton").write_bytes(b"pixels")
    with pytest.raises(UserError, match=f"RR_SCRATCH={scratch}: that file system knows no locks"):
        nearby(tmp_path / "a.beton", sha256(tmp_path / "a.beton"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: there is no such folder on this machine"):
        nearby(tmp_path / "a.beton", "0")


def test_stages_read_the_copies_and_find_the_same(
    converted: Path, tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    opened: list[Path] = []
    check = beton.check
    monkeypatch.setattr(beton, "check", lambda path: opened.append(path) or check(path))
    found = {}
    for name in ("shared", "local"):
        shutil.copytree(converted, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        write_params(tmp_path / name, lambda params: params["methods"]["relational"].update(epochs=1, views=2))
        if name == "shared":
            monkeypatch.delenv("RR_SCRATCH")
        else:
            monkeypatch.setenv("RR_SCRATCH", str(scratch))
        opened.clear()
        for command in (PRETRAIN, (*EVALUATE, "knn")):
            outcome = rr(*command)
            assert outcome.code == 0, outcome.err
        found[name] = [
            json.loads(record.read_text())["outputs"] for record in sorted((tmp_path / name / "runs").rglob("run.json"))
        ]
        assert {path.parent == scratch for path in opened} == {name == "local"}
    assert found["local"] == found["shared"]
    assert len(list(scratch.glob("*.beton"))) == 2
