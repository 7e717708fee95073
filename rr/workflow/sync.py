"""Register outputs with DVC and Snakemake, so that an engine does not repeat what the other one or a user has run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rr.errors import UserError
from rr.params import Params
from rr.workflow import grid
from rr.workflow.grid import StageRun
from rr.workflow.verify import describe_grid_mismatches, describe_mismatches


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
        _run_engine("snakemake", "--touch", "--forceall", "--cores", "1")
    else:
        _run_engine("dvc", "commit", "--force")


def was_started_by_user() -> bool:
    """Return whether no engine has started this process, and the current folder is a project of both engines."""
    # DVC sets DVC_STAGE for the commands that it runs; the Snakefile sets RR_ENGINE.
    return not {"DVC_STAGE", "RR_ENGINE"} & set(os.environ) and Path(".dvc").is_dir() and Path("dvc.yaml").is_file()


def register_run(run: StageRun, params: Params) -> None:
    """Register a finished stage run, which a user started, with both engines.

    Nothing happens if the grid does not contain the run, or if it does not match `params`, which may have changed while
    it ran. If an engine cannot register it, a message is printed.
    """
    current = next((candidate for candidate in grid.stage_runs(params) if candidate.folder == run.folder), None)
    if current is None or describe_mismatches(current):
        return
    print("registering the run with Snakemake and DVC", file=sys.stderr)
    snakemake = ("snakemake", "--touch", "--force", "--allowed-rules", run.stage, "--cores", "1")
    # Snakemake is first, because it changes modification times, by which DVC notices changes.
    for command in ((*snakemake, "--", str(run.outputs[0])), ("dvc", "commit", "--force", _dvc_stage_name(run))):
        try:
            _run_engine(*command)
        except (UserError, OSError, KeyboardInterrupt) as error:
            print(
                f"rr: {command[0]} could not register this run and would repeat it ({_summarize(error)}); later, run: "
                f"{shlex.join(command)}",
                file=sys.stderr,
            )


def _dvc_stage_name(run: StageRun) -> str:
    """Return the name of the run in DVC, which joins the values of a matrix with hyphens."""
    values = "-".join(run.folder.parts[2:])
    return f"{run.stage}@{values}" if values else run.stage


def _summarize(error: BaseException) -> str:
    """Return the first sentence of an engine's error message, without the lines around it."""
    lines = str(error).splitlines() or ["interrupted"]
    line = next((line for line in lines if "error: " in line.lower()), lines[-1])
    return re.sub("^error: ", "", line, flags=re.IGNORECASE).partition(". ")[0]


def _run_engine(program: str, *arguments: str) -> None:
    # Use the engine that is installed with this interpreter, independent of the PATH of the shell.
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if process.returncode:
        output = f"{process.stdout}{process.stderr}".rstrip()
        raise UserError(f"`{program} {' '.join(arguments)}` failed with exit code {process.returncode}:\n{output}")
