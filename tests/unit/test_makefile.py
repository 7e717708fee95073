"""Tests of `make`: it checks for a git repository first, and CPU=1 installs no CUDA libraries."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from helpers import ROOT
from test_requirements_lock import LOCKED


def copy_installer(folder: Path) -> None:
    """Copy the files that `make setup` needs."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "workflow/setup.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def test_make_without_a_git_repository_installs_nothing(tmp_path: Path) -> None:
    copy_installer(tmp_path)
    # A Python that does not exist ends the installation immediately.
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


def test_cpu_installs_everything_but_torch_and_cuda_from_the_lock_file(tmp_path: Path) -> None:
    """Programs that only record their arguments stand in for Python, pip, uv and the system libraries."""
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    log, bin_folder, venv = tmp_path / "log", tmp_path / "bin", tmp_path / "venv"
    bin_folder.mkdir()
    (venv / "bin").mkdir(parents=True)
    for folder, names in ((bin_folder, ("c++", "pkg-config", "no-python")), (venv / "bin", ("python", "pip"))):
        for name in names:
            (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
            (folder / name).chmod(0o755)
    (venv / "bin/uv").write_text(f'#!/bin/sh\necho uv "$@" >>{log}\ncat >>{log}\n')
    (venv / "bin/uv").chmod(0o755)
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": "no-python", "VENV": str(venv)}
    command = ["bash", ROOT / "workflow/setup.sh"]
    subprocess.run(command, cwd=tmp_path, env=environment | {"CPU": "1"}, check=True)
    lines = log.read_text().splitlines()
    assert f"pip install --quiet --disable-pip-version-check --no-deps -r {venv}/requirements.lock" in lines
    [uv] = [number for number, line in enumerate(lines) if line.startswith("uv ")]
    assert "--torch-backend cpu" in lines[uv]
    pinned = re.compile(r"^[a-z0-9-]+==[^ ;]+", re.MULTILINE)
    locked = set(pinned.findall((tmp_path / "requirements.lock").read_text()))
    rest = (venv / "requirements.lock").read_text()
    assert {line.partition("==")[0] for line in lines[uv + 1 : uv + 3]} == {"torch", "torchvision"}
    assert set(lines[uv + 1 : uv + 3]) <= locked
    left_out = {line.partition("==")[0] for line in locked - set(pinned.findall(rest))}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= left_out
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in left_out)
    assert {"numpy", "nvidia-ml-py", "uv"}.isdisjoint(left_out)
    assert LOCKED.sub("", rest.partition("\n")[2]).strip() == ""  # each version keeps its hashes

    log.unlink()
    subprocess.run(command, cwd=tmp_path, env=environment | {"CPU": ""}, check=True)
    assert "pip install --quiet --disable-pip-version-check -r requirements.lock" in log.read_text().splitlines()
    assert "uv" not in log.read_text()


def test_make_keeps_the_kind_of_torch_that_is_installed(tmp_path: Path) -> None:
    copy_installer(tmp_path)

    def recipe(*arguments: str) -> str:
        command = ["make", "--dry-run", "setup", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert 'CPU=""' in recipe()
    assert 'CPU="1"' in recipe("CPU=1")
    (tmp_path / ".venv").mkdir()
    shutil.copy(tmp_path / "requirements.lock", tmp_path / ".venv")  # as setup.sh writes it with CPU=1
    assert 'CPU="1"' in recipe()


def test_moved_project_is_installed_again(tmp_path: Path) -> None:
    copy_installer(tmp_path)
    ready = tmp_path / ".venv/ready"
    ready.parent.mkdir()
    command = ["make", "--dry-run", "setup"]
    for folder, is_installed in ((tmp_path, True), ("/moved", False)):
        ready.write_text(f"{folder}\n")
        output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        assert ("setup.sh" not in output) == is_installed
    # `make` puts .venv/bin first on the PATH. Both programs replace Python, and only log their arguments.
    for program in (ready.parent / "bin/python3", tmp_path / "bin/python3"):
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >>{program}.log\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(ready.parent / "bin"), str(tmp_path / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHON": "python3", "VENV": ".venv", "CPU": ""}
    message = "setup: this folder was moved or copied from /moved, so .venv is created again\n"
    link = tmp_path.with_name("link")
    link.symlink_to(tmp_path)
    for folder, is_moved in ((tmp_path, False), ("/moved", True)):
        ready.write_text(f"{folder}\n")
        process = subprocess.run(
            ["bash", "workflow/setup.sh"],
            cwd=link,
            env=environment | {"PWD": str(link)},
            capture_output=True,
            text=True,
        )
        assert (message in process.stdout) == is_moved
        assert ready.exists() != is_moved
    assert (tmp_path / "bin/python3.log").read_text() == "-m venv .venv\n"
