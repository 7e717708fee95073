"""Betons copied to a machine's own disk: the same figures, and never anything but what was recorded."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import EVALUATE, PRETRAIN, Rr, write_params

from rr.data import beton
from rr.errors import UserError
from rr.provenance import sha256
from rr.scratch import local


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_without_it_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RR_SCRATCH", raising=False)
    assert local(tmp_path / "a.beton", "0") == tmp_path / "a.beton"


def test_a_copy_is_made_once_and_made_anew_where_it_was_damaged(tmp_path: Path, scratch: Path) -> None:
    original = tmp_path / "a.beton"
    original.write_bytes(b"pixels" * 10_000_000)  # several pieces
    copy = local(original, sha256(original))
    assert copy.parent == scratch
    assert copy.read_bytes() == original.read_bytes()
    before = copy.stat()
    assert local(original, sha256(original)) == copy
    assert copy.stat().st_ino == before.st_ino
    copy.write_bytes(b"pixelz" * 10_000_000)
    assert local(original, sha256(original)).read_bytes() == original.read_bytes()
    assert [path.name for path in scratch.iterdir()] == [f"{sha256(original)}.beton"]


def test_what_was_not_recorded_is_not_kept(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "a.beton").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.beton changed while it was copied"):
        local(tmp_path / "a.beton", "0" * 64)
    assert list(scratch.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RR_SCRATCH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: there is no such folder on this machine"):
        local(tmp_path / "a.beton", "0")


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
    assert len(list(scratch.iterdir())) == 2
