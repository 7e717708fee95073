"""Make Snakemake keep the previous outputs of a stage until `rr` has replaced them.

By default, Snakemake deletes a job's outputs before the job runs and after it fails. Snakemake's flag `update()` keeps
the outputs, but it copies every file first and records failed jobs as successful. In DVC, `persist: true` keeps them.
"""

from typing import Any

import snakemake
from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job
from snakemake.persistence import PersistenceBase

# Methods that are replaced or called here. Snakemake does not document them, so later versions may lack them.
_METHODS = {
    Job: ("postprocess", "remove_existing_output"),
    PersistenceBase: ("incomplete", "_get_key", "_get_recorded_starttime", "_unmark_incomplete"),
}


def patch_snakemake_to_keep_outputs() -> None:
    """Patch Snakemake in this process so that a failed or killed job keeps its previous outputs and their metadata.

    This works because `rr` replaces a stage's outputs only when all new ones are complete. The Snakefile calls this
    function, so it also takes effect in the processes that Snakemake starts on the nodes of a cluster.

    Raises:
        WorkflowError: if this version of Snakemake lacks any of the methods. In this case, nothing is changed.
    """
    missing = [
        f"{owner.__name__}.{name}" for owner, names in _METHODS.items() for name in names if not hasattr(owner, name)
    ]
    if missing:
        raise WorkflowError(
            f"Snakemake {snakemake.__version__} has no {', '.join(missing)}, which rr needs to keep the previous "
            "outputs of failed stages: install the version in requirements.lock (`make setup`)"
        )
    postprocess, incomplete = Job.postprocess, PersistenceBase.incomplete

    async def remove_logs(job: Job) -> None:
        for log in job.log:
            await log.remove(remove_non_empty_dir=False)

    async def postprocess_unless_failed(job: Job, *arguments: Any, error: bool = False, **options: Any) -> None:
        if not error:
            await postprocess(job, *arguments, error=error, **options)
            return
        persistence = job.dag.workflow.persistence
        for file in job.output:
            persistence._unmark_incomplete(persistence._get_key(file))

    async def replaced_by_killed_job(persistence: PersistenceBase, job: Job) -> list[Any]:
        """Return the outputs that were written after the start of a job that Snakemake did not record as finished."""
        files = []
        for file in await incomplete(persistence, job):
            start = persistence._get_recorded_starttime(persistence._get_key(file))
            if start is None or (await file.mtime()).local_or_storage() >= start:
                files.append(file)
        return files

    Job.remove_existing_output = remove_logs
    Job.postprocess = postprocess_unless_failed
    PersistenceBase.incomplete = replaced_by_killed_job
