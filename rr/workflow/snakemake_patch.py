"""Change three behaviors of Snakemake: when it deletes outputs, how it notices changes, and how often it hashes files.

- By default, Snakemake deletes a job's outputs before the job runs and after it fails. Its `update()` flag keeps the
  outputs, but copies every file first and records failed jobs as successful. In DVC, `persist: true` keeps them.
- Snakemake compares a job's parameters, code and inputs with its own metadata. If there is no metadata, or if DVC has
  written or restored the outputs since the metadata was written, Snakemake would accept outputs of other parameters,
  code or inputs, or rerun jobs whose outputs are up to date.
- Snakemake hashes each input of a job once for every output of the job.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import snakemake
from snakemake.exceptions import WorkflowError
from snakemake.io import _IOFile
from snakemake.jobs import Job
from snakemake.persistence import NO_PARAMS_CHANGE, ParamsChange, PersistenceBase

from rr.errors import UserError
from rr.paths import RECORD_NAME
from rr.runtime.hashing import code_sha256, file_sha256
from rr.workflow.records import code_hashes, load_record, recorded_sha256

# Methods that are replaced or called here. Snakemake does not document them, so later versions may lack them.
_METHODS = {
    _IOFile: ("checksum",),
    Job: ("postprocess", "remove_existing_output"),
    PersistenceBase: (
        "has_metadata",
        "incomplete",
        "input_checksums",
        "_code_changed",
        "_input_changed",
        "params_changed",
        "_get_key",
        "_get_recorded_starttime",
        "_params",
        "_unmark_incomplete",
    ),
}
# The methods before they are replaced. The replacements call them.
_ORIGINALS: dict[str, Any] = {name: getattr(owner, name, None) for owner, names in _METHODS.items() for name in names}


def patch_snakemake() -> None:
    """Patch Snakemake in this process.

    - A failed or killed job keeps its previous outputs and their metadata. This works because `rr` replaces a stage's
      outputs only when all new ones are complete. Outputs that a job replaced before it failed count as incomplete.
    - The parameters, code and inputs of a job are compared with the record of its outputs. Snakemake's own metadata
      counts only if there is no record, or if the record is damaged.
    - An unchanged file is hashed only once in this process.

    A second call changes nothing. The Snakefile calls this function, so it also takes effect in the processes that
    Snakemake starts on the nodes of a cluster.

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
    _IOFile.checksum = _checksum_once_per_version
    Job.remove_existing_output = _remove_logs
    Job.postprocess = _postprocess_unless_failed
    PersistenceBase.incomplete = _find_incomplete_outputs
    PersistenceBase.has_metadata = _has_metadata_or_record
    PersistenceBase.params_changed = _params_changed_since_record
    PersistenceBase._code_changed = _code_changed_without_record
    PersistenceBase._input_changed = _input_changed_without_record
    PersistenceBase.input_checksums = _input_checksums_in_record


async def _remove_logs(job: Job) -> None:
    """Before a job runs, delete only its logs, not its outputs."""
    for log in job.log:
        await log.remove(remove_non_empty_dir=False)


async def _postprocess_unless_failed(job: Job, *arguments: Any, error: bool = False, **options: Any) -> None:
    """After a failure, keep the outputs. Those that the job has not replaced no longer count as incomplete."""
    if not error:
        await _ORIGINALS["postprocess"](job, *arguments, error=error, **options)
        return
    persistence = job.dag.workflow.persistence
    for file in job.output:
        start = persistence._get_recorded_starttime(persistence._get_key(file))
        if start is None or not os.path.exists(file) or os.path.getmtime(file) < start:
            persistence._unmark_incomplete(persistence._get_key(file))


async def _find_incomplete_outputs(persistence: PersistenceBase, job: Job) -> list[Any]:
    """Return the outputs that were written after the start of a job that Snakemake did not record as finished."""
    files = []
    for file in await _ORIGINALS["incomplete"](persistence, job):
        start = persistence._get_recorded_starttime(persistence._get_key(file))
        if start is None or (await file.mtime()).local_or_storage() >= start:
            files.append(file)
    return files


def _has_metadata_or_record(persistence: PersistenceBase, job: Job) -> bool:
    return _ORIGINALS["has_metadata"](persistence, job) or _matches_record(job) is not None


def _params_changed_since_record(persistence: PersistenceBase, job: Job, file: Any = None) -> ParamsChange:
    matches = _matches_record(job)
    if matches is None:  # there is no usable record
        return _ORIGINALS["params_changed"](persistence, job, file)
    if matches:
        return NO_PARAMS_CHANGE
    return ParamsChange(only_new=set(persistence._params(job)), files=set(job.output))


# Without a matching record, the two functions that end in `_without_record` use Snakemake's own metadata.
def _code_changed_without_record(persistence: PersistenceBase, job: Job, file: Any = None) -> bool:
    return not _matches_record(job) and _ORIGINALS["_code_changed"](persistence, job, file)


def _input_changed_without_record(persistence: PersistenceBase, job: Job, file: Any = None) -> bool:
    return not _matches_record(job) and _ORIGINALS["_input_changed"](persistence, job, file)


def _input_checksums_in_record(persistence: PersistenceBase, job: Job, file: str) -> set[Any]:
    if not _matches_record(job):
        return _ORIGINALS["input_checksums"](persistence, job, file)
    # The record matches, so code files differ from the recorded versions at most in comments, docstrings and
    # formatting. Their current hashes are therefore accepted.
    sha256 = file_sha256(Path(file)) if file in _code_inputs(job) else recorded_sha256(Path(file))
    return {f"sha256:{sha256}"}


_checksum_by_version: dict[tuple[Any, ...], str | None] = {}


async def _checksum_once_per_version(
    file: _IOFile, threshold: int | None = None, force: bool = False, algorithm: str | Callable | None = None
) -> str | None:
    if not os.path.isfile(file):
        return await _ORIGINALS["checksum"](file, threshold, force, algorithm)
    status = os.stat(file)
    version = (str(file), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    key = (*version, threshold, force, algorithm)
    if key not in _checksum_by_version:
        _checksum_by_version[key] = await _ORIGINALS["checksum"](file, threshold, force, algorithm)
    return _checksum_by_version[key]


# Whether a job matches each version of its record. If an input changes later, Snakemake reruns the job without this
# comparison, because the job that wrote the input has run.
_matches_by_version: dict[tuple[Path, int], bool | None] = {}


def _matches_record(job: Job) -> bool | None:
    """Return whether a job's parameters, code and inputs are those in the record of its outputs.

    The inputs are compared by the hashes in the records of the jobs that wrote them. The result is None if a record is
    missing or damaged.
    """
    record_file = next((Path(file) for file in job.output if Path(file).name == RECORD_NAME), None)
    if record_file is None or not record_file.is_file():
        return None
    version = (record_file, record_file.stat().st_mtime_ns)
    if version not in _matches_by_version:
        _matches_by_version[version] = _compare_with_record(job, record_file.parent)
    return _matches_by_version[version]


def _compare_with_record(job: Job, folder: Path) -> bool | None:
    extension_modules, code_inputs = job.input.get("extension", []), _code_inputs(job)
    inputs = [str(path) for path in job.input if path not in code_inputs]
    try:
        record = load_record(folder)
        code = _code_hashes(job.rule.name) | {str(path): code_sha256(Path(path)) for path in extension_modules}
        if (record["params"], record["code"]) != (job.params.get("settings"), code):
            return False
        if record["inputs"].keys() != set(inputs):  # the grid has changed, and some inputs may not exist yet
            return False
        return bool(record["inputs"] == {path: recorded_sha256(Path(path)) for path in inputs})
    except (UserError, OSError):
        return None


def _code_inputs(job: Job) -> set[str]:
    return {*job.input.get("code", []), *job.input.get("extension", [])}


# The hashes can be cached, because each stage reads the files again and fails if they change while it runs.
_code_hashes = cache(code_hashes)
