"""Tests for the git commit that a record contains."""

import subprocess
from pathlib import Path

import pytest

from rr.runtime.machine import read_git_commit


def run_git(*arguments: str) -> None:
    """Run git with an identity, so that it can commit."""
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_git_commit_and_changes_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_git_commit() is None
    run_git("init", "-q")
    assert read_git_commit() is None, "a repository without a commit"
    for name in ("params.yaml", "dvc.yaml", "notes"):
        Path(name).write_text("1")
    run_git("add", ".")
    run_git("commit", "-qm", "first")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    Path("notes").write_text("2")
    Path("params.yaml").write_text("2")  # its values are in the record
    Path("dvc.lock").write_text("untracked")
    assert read_git_commit() == {"id": head, "changed": False}, "only changes of the code count"
    Path("dvc.yaml").write_text("2")
    assert read_git_commit() == {"id": head, "changed": True}
    run_git("add", ".")
    assert read_git_commit() == {"id": head, "changed": True}
    monkeypatch.setenv("PATH", "")
    assert read_git_commit() is None
