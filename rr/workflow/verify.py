"""Compare the records of runs (`run.json`) with the current files, code and parameters."""

import functools
from collections.abc import Callable
from pathlib import Path

from rr import paths
from rr.errors import UserError
from rr.params import Params, load_params
from rr.project import PACKAGE
from rr.runtime.hashing import code_sha256, file_sha256
from rr.runtime.progress import Progress
from rr.workflow.records import code_files, find_current_record, load_record, recorded_sha256
from rr.workflow.stage_runs import StageRun, iter_stage_runs, stage_params


def describe_changed_files(run: StageRun, hash_file: Callable[[Path], str] = file_sha256) -> list[str]:
    """Return a message for each existing input or output file that differs from the run's record.

    If the run has no record, nothing is compared.

    Raises:
        UserError: if the record is damaged.
    """
    if not paths.record_file(run.folder).is_file():
        return []
    record = load_record(run.folder)
    return [
        f"{name} ({kind.removesuffix('s')} of {run.folder}) has changed since the run"
        for kind in ("outputs", "inputs")
        for name, sha256 in record[kind].items()
        if Path(name).is_file() and hash_file(Path(name)) != sha256
    ]


def find_changed_source_file(run: StageRun) -> str | None:
    """Return a message if the exclude list or the label file has changed since the recorded `fetch` run, or None.

    These are not the project's files, so the engines do not notice the change. A missing file is not a change: on
    another machine, the images may have been copied without it.
    """
    record = find_current_record(run)  # the engines notice new parameters
    source = run.params.get(f"datasets.{run.folder.name}.source", {})
    for key, kind in (("exclude", "exclude list"), ("labels", "label file")):
        sha256 = record and record.get(f"{key}_sha256")
        if not sha256:
            continue
        path = paths.expand_user(source[key])
        if path.is_file() and file_sha256(path) != sha256:
            return (
                f"{source[key]} ({kind} of {run.folder}) has changed since the run: run rr fetch --dataset "
                f"{run.folder.name}"
            )
    return None


def find_mismatches(
    run: StageRun, hash_file: Callable[[Path], str] = file_sha256, *, allow_missing: bool = False
) -> list[str]:
    """Return a message for each difference between the run's record and its current files, code and parameters.

    Comments, docstrings and formatting do not count as differences in code. If `hash_file` is cached, files that
    several runs share are hashed only once. With `allow_missing`, a missing record, input or output is not a mismatch.
    """
    if allow_missing and not paths.record_file(run.folder).is_file():
        return []
    try:
        record = load_record(run.folder)
    except UserError as error:
        return [str(error)]
    code = {str(name): PACKAGE.parent / name for name in code_files(run.stage)}
    code |= {str(path): path for path in run.extension_module_files}
    sections: tuple[tuple[str, dict[str, Path], Callable[[Path], str]], ...] = (
        ("outputs", {str(path): path for path in run.outputs}, hash_file),
        ("inputs", {str(path): path for path in run.inputs}, hash_file),
        ("code", code, code_sha256),
    )
    messages = []
    for section, files, hash_function in sections:
        recorded, role = record[section], f"{section.removesuffix('s')} of {run.folder}"
        for name, path in files.items():
            if name not in recorded:
                messages.append(f"{name} ({role}) is not in the record of the run")
            elif not path.is_file():
                if section == "code" or not allow_missing:
                    messages.append(f"{name} ({role}) is missing")
            elif hash_function(path) != recorded[name]:
                messages.append(f"{name} ({role}) has changed since the run")
        obsolete = sorted(recorded.keys() - files.keys())
        messages += [f"{name} ({role}) is in the record of the run but is no longer used" for name in obsolete]
    if run.params != record["params"]:
        messages.append(f"{run.folder}: its parameters in params.yaml have changed since the run")
    if run.stage == "fetch" and (message := find_changed_source_file(run)):
        messages.append(message)
    return messages


def check_unchanged_during_run(run: StageRun, params_file: Path) -> None:
    """Raise UserError if parameters, code or inputs of a run have changed since it started.

    Both engines record them as they are when a stage ends. If the stage did not fail, the engines would therefore
    consider its outputs up to date. Inputs are compared by the hashes in the records of the stages that wrote them.
    """
    try:
        params = stage_params(load_params(params_file), run.stage, **run.names)
        messages = find_mismatches(run._replace(params=params), recorded_sha256)
    except UserError as error:
        messages = [str(error)]
    if messages:
        raise UserError(
            "\n".join(
                [
                    *messages,
                    f"these changes were made while {run.folder} was being computed: run the same command again",
                ]
            )
        )


def find_grid_mismatches(params: Params, *, allow_missing: bool = False) -> list[tuple[StageRun, list[str]]]:
    """Return each stage run in the grid with the messages from `find_mismatches`."""
    check = functools.partial(find_mismatches, hash_file=functools.cache(file_sha256), allow_missing=allow_missing)
    return _check_runs("verify", list(iter_stage_runs(params)), check)


def count_comparable_files(runs: list[StageRun]) -> tuple[int, int]:
    """Return how many of the runs' records, inputs and outputs can be compared, and how many cannot.

    Each file is counted once. A file cannot be compared if it is missing, or if none of the runs that read or write it
    has a record.
    """
    recorded = [run for run in runs if paths.record_file(run.folder).is_file()]
    files, recorded_files = (
        {path for run in group for path in (paths.record_file(run.folder), *run.inputs, *run.outputs)}
        for group in (runs, recorded)
    )
    comparable = sum(path.is_file() for path in recorded_files)
    return comparable, len(files) - comparable


def describe_grid_changed_files(params: Params) -> list[str]:
    """Return a message for each file, from the raw images to the report's inputs, that differs from its record.

    Missing files are ignored, because weights and images may be on another machine when a report is written. A file
    that several runs read is listed once for each run.
    """
    hash_file = functools.cache(file_sha256)
    runs = [run for run in iter_stage_runs(params) if run.stage != "report"]
    checked_runs = _check_runs("report", runs, lambda run: describe_changed_files(run, hash_file))
    return [message for _, messages in checked_runs for message in messages]


def _check_runs(
    command: str, runs: list[StageRun], check: Callable[[StageRun], list[str]]
) -> list[tuple[StageRun, list[str]]]:
    """Return each run with the messages from `check`, and show progress for `command` while checking."""
    checked_runs = []
    with Progress(command, len(runs), "runs", note="comparing files with their records") as progress:
        for run in runs:
            checked_runs.append((run, check(run)))
            progress.advance(1)
    return checked_runs
