"""Register outputs with DVC, so that it does not rerun what Snakemake or a user has run.

Snakemake needs no registration, because it compares the runs with their records (`rr.workflow.snakemake_patch`).
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rr import paths
from rr.errors import UserError
from rr.params import Params, load_params
from rr.project import is_in_work_tree
from rr.workflow.records import code_hashes
from rr.workflow.stage_runs import STAGE_PARAMETERS, StageRun, iter_stage_runs
from rr.workflow.verify import find_grid_mismatches, find_mismatches

_ANSI_SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")  # DVC colors its messages


def sync_dvc(params: Params) -> tuple[int, int, int]:
    """Register with DVC all runs in the grid that match their records.

    `dvc commit` does not check files, so a run that does not match its record is not registered, and DVC runs it again.

    Returns:
        The numbers of registered runs, of runs without a record, and of all runs.

    Raises:
        UserError: if DVC is not installed or cannot register the runs, if git cannot be used, or if the code in this
            folder differs from the code of the running `rr`.
    """
    require_engines("rr sync", ["dvc"])
    for stage in STAGE_PARAMETERS:
        code_hashes(stage)  # records refer to the code of the running `rr`, but DVC reads this folder
    checked_runs = find_grid_mismatches(params)
    runs = [run for run, messages in checked_runs if not messages]
    _register_with_dvc(runs)
    num_not_run = sum(not paths.record_file(run.folder).is_file() for run, _ in checked_runs)
    return len(runs), num_not_run, len(checked_runs)


def was_started_by_dvc() -> bool:
    """Return whether DVC started this process."""
    return "DVC_STAGE" in os.environ  # DVC sets it for the commands that it runs


def was_started_by_engine() -> bool:
    """Return whether DVC or Snakemake started this process."""
    return was_started_by_dvc() or "RR_ENGINE" in os.environ  # the Snakefile sets RR_ENGINE


def was_started_by_user() -> bool:
    """Return whether a user, not an engine, started this process in a folder that DVC can use."""
    return not was_started_by_engine() and Path(".dvc").is_dir() and Path("dvc.yaml").is_file()


def require_engines(what: str, engines: Sequence[str] = ("dvc", "snakemake")) -> None:
    """Raise UserError if one of `engines` is not installed; `what` is the command or option that needs them."""
    missing = [name for name in engines if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what}: {' and '.join(missing)} cannot be imported: to use the engines, run pip install "
            "'relational-reasoning[workflow]'"
        )


def register_run(run: StageRun, params_file: Path) -> None:
    """Register with DVC a finished stage run that was started by a user.

    Nothing happens if the run is not in the grid, or if it does not match `params_file`, which may have changed in the
    meantime. If the file is invalid, or if DVC is not installed or cannot register the run, a message is printed;
    Ctrl-C ends the command.
    """
    try:
        runs = iter_stage_runs(load_params(params_file))
        current = next((candidate for candidate in runs if candidate.folder == run.folder), None)
        if current is None or find_mismatches(current):
            return
        print("registering the run with DVC", file=sys.stderr)
        require_engines("rr sync", ["dvc"])
        _register_with_dvc([current])
    except (UserError, OSError, KeyboardInterrupt) as error:
        print(
            f"rr: DVC could not register this run and would rerun it ({_summarize(error)}): run rr sync later",
            file=sys.stderr,
        )
        if isinstance(error, KeyboardInterrupt):
            raise


def _register_with_dvc(runs: Sequence[StageRun]) -> None:
    """Commit the outputs to DVC's cache, and write the hashes of outputs and dependencies to `dvc.lock`.

    `dvc commit --force` with the names of the runs does the same, but reads and writes the lock file once per name.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
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
    except LockError as error:
        blocking = [f"process {pid}, {command}" for pid, command in re.findall(r"\(PID (\d+)\): (.*)", str(error))]
        if not blocking:
            raise UserError(f"DVC is busy: {_ANSI_SEQUENCE.sub('', str(error))}") from error
        raise UserError(
            f"DVC is busy ({'; '.join(blocking)}): wait until it has ended or, if there is no such process, delete "
            ".dvc/tmp/rwlock"
        ) from error
    except DvcException as error:
        raise UserError(f"DVC could not commit the outputs: {_ANSI_SEQUENCE.sub('', str(error))}") from error
    except OSError:
        raise
    except Exception as error:  # dulwich and SQLite raise errors of many types, such as AssertionError
        is_in_work_tree(Path.cwd())  # raises if git cannot be used, which is then the cause
        raise UserError(f"DVC could not commit the outputs: {str(error) or type(error).__name__}") from error


def _dvc_stage_name(run: StageRun) -> str:
    """Return the run's name in DVC, which joins matrix values with hyphens."""
    values = "-".join(run.folder.parts[2:])
    return f"{run.stage}@{values}" if values else run.stage


def _summarize(error: BaseException) -> str:
    """Return the first sentence of an engine's error message, without the lines around it."""
    lines = str(error).splitlines() or ["interrupted"]
    line = next((line for line in lines if "error: " in line.lower()), lines[-1])
    return re.sub("^error: ", "", line, flags=re.IGNORECASE).partition(". ")[0]
