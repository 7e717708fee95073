"""Change two behaviors of Snakemake: when it deletes outputs, and how it notices changed parameters.

- By default, Snakemake deletes a job's outputs before the job runs and after it fails. Its flag `update()` keeps the
  outputs, but copies every file first and records failed jobs as successful. In DVC, `persist: true` keeps them.
- Snakemake compares a job's parameters with its own metadata. If there is no metadata, or if DVC has written the
  outputs since then, it would not notice changed parameters or, for the report, a changed grid.
"""

import json
import os
from pathlib import Path
from typing import Any

import snakemake
from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job
from snakemake.persistence import ParamsChange, PersistenceBase

from rr.paths import RECORD_NAME

# Methods that are replaced or called here. Snakemake does not document them, so later versions may lack them.
_METHODS = {
    Job: ("postprocess", "remove_existing_output"),
    PersistenceBase: (
        "has_metadata",
        "incomplete",
        "params_changed",
        "_get_key",
        "_get_recorded_starttime",
        "_params",
        "_unmark_incomplete",
    ),
}


def patch_snakemake() -> None:
    """Patch Snakemake in this process.

    - A failed or killed job keeps its previous outputs and their metadata. This works because `rr` replaces a stage's
      outputs only when all new ones are complete. Outputs that a job has replaced before it fails are incomplete.
    - The parameters of a job are also compared with the record of its outputs.

    The Snakefile calls this function, so it also takes effect in the processes that Snakemake starts on the nodes of a
    cluster.

    Raises:
        WorkflowError: if this version of Snakemake lacks any of the methods. In this case, nothing is changed.
    """
    missing = [
        f"{owner.__name__}.{name}" for owner, names in _METHODS.items() for name in names if not hasattr(owner, name)
    ]
    if missing:
        raise WorkflowError(
            f"Snakemake {snakemake.__version__} has no {', '.join(missing)}, which rr needs to run the stages: "
            "install the version in requirements.lock (`make setup`)"
        )
    postprocess, incomplete = Job.postprocess, PersistenceBase.incomplete
    has_metadata, params_changed = PersistenceBase.has_metadata, PersistenceBase.params_changed

    async def remove_logs(job: Job) -> None:
        for log in job.log:
            await log.remove(remove_non_empty_dir=False)

    async def postprocess_unless_failed(job: Job, *arguments: Any, error: bool = False, **options: Any) -> None:
        if not error:
            await postprocess(job, *arguments, error=error, **options)
            return
        persistence = job.dag.workflow.persistence
        for file in job.output:
            start = persistence._get_recorded_starttime(persistence._get_key(file))
            if start is None or not os.path.exists(file) or os.path.getmtime(file) < start:
                persistence._unmark_incomplete(persistence._get_key(file))

    async def replaced_by_killed_job(persistence: PersistenceBase, job: Job) -> list[Any]:
        """Return the outputs that were written after the start of a job that Snakemake did not record as finished."""
        files = []
        for file in await incomplete(persistence, job):
            start = persistence._get_recorded_starttime(persistence._get_key(file))
            if start is None or (await file.mtime()).local_or_storage() >= start:
                files.append(file)
        return files

    def has_metadata_or_differs(persistence: PersistenceBase, job: Job) -> bool:
        return has_metadata(persistence, job) or _differs_from_record(job)

    def params_changed_since_record(persistence: PersistenceBase, job: Job, file: Any = None) -> ParamsChange:
        if _differs_from_record(job):
            return ParamsChange(only_new=set(persistence._params(job)), files=set(job.output))
        return params_changed(persistence, job, file)

    Job.remove_existing_output = remove_logs
    Job.postprocess = postprocess_unless_failed
    PersistenceBase.incomplete = replaced_by_killed_job
    PersistenceBase.has_metadata = has_metadata_or_differs
    PersistenceBase.params_changed = params_changed_since_record


def _differs_from_record(job: Job) -> bool:
    """Return whether the record of a job's outputs contains other parameters than those of the job."""
    record = next((Path(file) for file in job.output if Path(file).name == RECORD_NAME), None)
    if record is None or not record.is_file():
        return False
    try:
        return bool(json.loads(record.read_bytes())["params"] != job.params.get("settings"))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the record is damaged, which `rr verify` reports
