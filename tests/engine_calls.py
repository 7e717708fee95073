"""Run the engines as a user would."""

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def call(folder: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout
