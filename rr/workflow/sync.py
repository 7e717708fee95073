"""Register the outputs of one engine (DVC or Snakemake) with the other, so that it does not run the stages again."""

import subprocess
import sys
from pathlib import Path

from rr.errors import UserError
from rr.params import Params
from rr.workflow.verify import describe_grid_mismatches


def sync_engines(from_engine: str, params: Params) -> None:
    """Register the outputs of `from_engine` with the other engine.

    After "dvc", Snakemake writes the metadata that it later compares with. After "snakemake", the outputs are committed
    to DVC's cache. Both engines would accept outdated files: `dvc commit` does not check them, and Snakemake does not
    notice a changed parameter without metadata. Therefore all records are checked first.

    Args:
        from_engine: the engine that ran last, "dvc" or "snakemake".
        params: parameters with the grid.

    Raises:
        UserError: if a file does not match its record, or if a command of an engine fails.
    """
    messages = describe_grid_mismatches(params)
    if messages:
        command = "dvc repro" if from_engine == "dvc" else "snakemake --cores 8"
        messages.append(f"the engines were not synchronized: run `{command}` first, to update these files")
        raise UserError("\n".join(messages))
    if from_engine == "dvc":
        _run_engine("snakemake", "--touch", "--forceall", "--cores", "1", "--quiet", "all")
    else:
        _run_engine("dvc", "commit", "--force", "--quiet")


def _run_engine(program: str, *arguments: str) -> None:
    # Use the engine that is installed with this interpreter, independent of the PATH of the shell.
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        output = f"{process.stdout}{process.stderr}".rstrip()
        raise UserError(f"`{program} {' '.join(arguments)}` failed with exit code {process.returncode}:\n{output}")
