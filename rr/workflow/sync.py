"""Register the outputs of one engine (DVC or Snakemake) with the other, so that it does not run the stages again."""

import subprocess
import sys
from pathlib import Path

from rr.errors import UserError
from rr.params import Params
from rr.workflow.verify import grid_mismatches


def sync_engines(engine: str, params: Params) -> None:
    """Register the outputs of `engine` with the other engine.

    After "dvc", Snakemake gets the metadata that it compares with. After "snakemake", the outputs are committed to
    DVC's cache. Either engine would accept outdated files: `dvc commit` does not check them, and Snakemake does not
    notice a changed parameter without metadata. So all records are checked first.

    Args:
        engine: The engine that ran last, "dvc" or "snakemake".
        params: Parameters with the grid.

    Raises:
        UserError: if a file does not match its record, or if a command of an engine fails.
    """
    messages = grid_mismatches(params)
    if messages:
        command = "dvc repro" if engine == "dvc" else "snakemake --cores 8"
        raise UserError("\n".join([*messages, f"not synchronized: run {command} first to update these files"]))
    if engine == "dvc":
        _run_engine("snakemake", "--touch", "--forceall", "--cores", "1", "--quiet", "all")
    else:
        _run_engine("dvc", "commit", "--force", "--quiet")


def _run_engine(program: str, *arguments: str) -> None:
    # Use the engines that are installed with this interpreter, whatever the PATH of the shell is.
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"{program} {' '.join(arguments)} failed:\n{process.stdout}{process.stderr}".rstrip())
