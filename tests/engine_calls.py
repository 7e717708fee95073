"""Run engine commands in child processes, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import helpers  # noqa: F401  # changes os.environ, which is copied here

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def call(folder: Path, *command: str, code: int = 0) -> str:
    """Run a command in `folder`, check its exit code, and return what it printed."""
    process = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.returncode == code, process.stdout
    return process.stdout
