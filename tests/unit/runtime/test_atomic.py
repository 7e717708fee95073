"""Tests for files that are replaced atomically, one by one or together."""

import os
from pathlib import Path

import pytest

from rr.runtime.atomic import atomic_write, replace_together, write_text


@pytest.fixture
def former_files(tmp_path: Path) -> list[Path]:
    """Two existing files."""
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file in files:
        file.write_text("old")
    return files


def read(files: list[Path]) -> list[str]:
    return [file.read_text() for file in files]


def test_failed_write_keeps_the_former_file(former_files: list[Path]) -> None:
    def write_and_fail() -> None:
        with atomic_write(former_files[0]) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert read(former_files) == ["old", "old"]
    assert sorted(former_files[0].parent.iterdir()) == former_files


def test_file_can_be_written_by_several_processes(former_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_write(former_files[0], concurrent=True) as temporary:
        temporary.write_text("first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            write_text(former_files[0], "second", concurrent=True)
        assert read(former_files) == ["second", "old"]
    assert read(former_files) == ["first", "old"]


def test_targets_are_replaced_together_and_in_order(former_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (replaced.append(target), replace(source, target)))
    other = former_files[0].with_name("other.txt")
    with replace_together(former_files) as new_files:
        write_text(former_files[1], "new b")
        write_text(former_files[0], "new a")
        write_text(other, "not a target")
        assert read(former_files) == ["old", "old"]
        assert other.read_text() == "not a target"
        assert [new_files[file].read_text() for file in former_files] == ["new a", "new b"]
    assert read(former_files) == ["new a", "new b"]
    assert replaced == [other, *former_files]
    write_text(former_files[0], "newer")  # takes effect immediately
    assert former_files[0].read_text() == "newer"


def test_failed_body_replaces_no_target(former_files: list[Path]) -> None:
    def write_and_fail() -> None:
        with replace_together(former_files):
            write_text(former_files[0], "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert read(former_files) == ["old", "old"]
    assert sorted(former_files[0].parent.iterdir()) == former_files


def test_target_that_is_not_written_is_kept(former_files: list[Path]) -> None:
    with replace_together(former_files) as new_files:
        write_text(former_files[0], "new")
        assert new_files[former_files[1]] is None
    assert read(former_files) == ["new", "old"]
