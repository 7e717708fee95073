"""Test that `make` checks for a git repository before it installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

from helpers import ROOT


def test_make_without_a_git_repository_installs_nothing(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "workflow/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # A Python that does not exist ends the installation at once.
    command = ["make", "PYTHON=no-python"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert "make: DVC needs a git repository: clone the project with git, or, in this folder, run" in process.stderr
    assert "setup:" not in process.stderr
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "git repository" not in process.stderr
    assert "setup: no-python is not Python 3.11 to 3.13" in process.stderr
