"""Register outputs with DVC and Snakemake, so that neither engine repeats what the other one or a user has run."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rr.errors import UserError
from rr.params import Params
from rr.workflow.records import code_hashes
from rr.workflow.stage_runs import STAGE_PARAMETERS, StageRun, iter_stage_runs
from rr.workflow.verify import find_grid_mismatches, find_mismatches


def sync_engines(from_engine: str | None, params: Params) -> tuple[int, int]:
    """Register with the engines all runs in the grid that match their records.

    Both engines compare code byte by byte. If only comments, docstrings or formatting are edited, they would repeat
    runs that match their records. Both would also accept outdated files: `dvc commit` does not check them, and
    without metadata, Snakemake compares only parameters and modification times. Therefore, a run that does not match
    its record is not registered, and the engines run it again.

    `from_engine` is the engine that ran last ("dvc" or "snakemake"), and the runs are registered only with the other
    one. If it is None, they are registered with both.

    Returns:
        The numbers of registered runs and of all runs.

    Raises:
        UserError: if an engine is not installed or cannot register the runs, or if the code in this folder differs from
            the code of the running `rr`.
    """
    require_engines("rr sync")
    for stage in STAGE_PARAMETERS:
        code_hashes(stage)  # records refer to the code of the running `rr`, but the engines read this folder
    checked_runs = find_grid_mismatches(params)
    runs = [run for run, messages in checked_runs if not messages]
    # Snakemake comes first, because it changes modification times, which DVC uses to detect changes.
    if from_engine != "snakemake":
        _register_with_snakemake(runs)
    if from_engine != "dvc":
        _register_with_dvc(runs)
    return len(runs), len(checked_runs)


def was_started_by_dvc() -> bool:
    """Return whether DVC has started this process."""
    return "DVC_STAGE" in os.environ  # DVC sets it for the commands that it runs


def was_started_by_engine() -> bool:
    """Return whether DVC or Snakemake has started this process."""
    return was_started_by_dvc() or "RR_ENGINE" in os.environ  # the Snakefile sets RR_ENGINE


def was_started_by_user() -> bool:
    """Return whether a user, not an engine, has started this process, in a folder that both engines can use."""
    return not was_started_by_engine() and Path(".dvc").is_dir() and Path("dvc.yaml").is_file()


def require_engines(what: str) -> None:
    """Raise UserError if an engine is not installed; `what` is the command or option that needs both."""
    if missing := _missing_engines():
        raise UserError(f"{what}: {missing}")


def _missing_engines() -> str:
    """Return which engines are not installed and how to install them, or an empty string."""
    missing = [name for name in ("snakemake", "dvc") if find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"{' and '.join(missing)} cannot be imported: to use the engines, run pip install "
        "'relational-reasoning[workflow]'"
    )


def register_run(run: StageRun, params: Params) -> None:
    """Register with both engines a finished stage run that was started by a user.

    Nothing happens if the run is not in the grid, or if it does not match `params`, which may have changed in the
    meantime. If an engine is not installed or cannot register the run, a message is printed; Ctrl-C ends the command.
    """
    current = next((candidate for candidate in iter_stage_runs(params) if candidate.folder == run.folder), None)
    if current is None or find_mismatches(current):
        return
    if missing := _missing_engines():
        print(f"rr: the run was not registered with the engines, because {missing}, then rr sync", file=sys.stderr)
        return
    print("registering the run with Snakemake and DVC", file=sys.stderr)
    for engine, register in (("snakemake", _register_with_snakemake), ("dvc", _register_with_dvc)):
        try:
            register([current])
        except (UserError, OSError, KeyboardInterrupt) as error:
            print(
                f"rr: {engine} could not register this run and would repeat it ({_summarize(error)}): run rr sync "
                "later",
                file=sys.stderr,
            )
            if isinstance(error, KeyboardInterrupt):
                raise


def _register_with_snakemake(runs: Sequence[StageRun]) -> None:
    """Make Snakemake write the metadata that it uses to detect changes, and update the outputs' modification times."""
    for stage in dict.fromkeys(run.stage for run in runs):
        # If the rules of other stages were allowed, Snakemake would also accept outdated inputs of these runs.
        options = ("--touch", "--force", "--allowed-rules", stage, "--cores", "1")
        outputs = [str(run.outputs[0]) for run in runs if run.stage == stage]
        # Use the Snakemake that is installed with this interpreter, regardless of the shell's PATH.
        command = [sys.executable, "-m", "snakemake", *options, "--", *outputs]
        process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if process.returncode:
            output = f"{process.stdout}{process.stderr}".rstrip()
            raise UserError(f"`snakemake {' '.join(options)}` failed with exit code {process.returncode}:\n{output}")


def _register_with_dvc(runs: Sequence[StageRun]) -> None:
    """Commit the outputs to DVC's cache, and write the hashes of outputs and dependencies to `dvc.lock`.

    `dvc commit --force` with the names of the runs does the same, but reads and writes the lock file once per name.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    names = {_dvc_stage_name(run) for run in runs}
    try:
        with Repo() as repo, lock_repo(repo):
            stages = [stage for stage in repo.index.stages if stage.addressing in names]
            for stage in stages:
                stage.save()
                stage.commit()
            if stages:
                stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
    except DvcException as error:
        raise UserError(f"DVC could not commit the outputs: {error}") from error


def _dvc_stage_name(run: StageRun) -> str:
    """Return the run's name in DVC, which joins matrix values with hyphens."""
    values = "-".join(run.folder.parts[2:])
    return f"{run.stage}@{values}" if values else run.stage


def _summarize(error: BaseException) -> str:
    """Return the first sentence of an engine's error message, without the lines around it."""
    lines = str(error).splitlines() or ["interrupted"]
    line = next((line for line in lines if "error: " in line.lower()), lines[-1])
    return re.sub("^error: ", "", line, flags=re.IGNORECASE).partition(". ")[0]
