"""Write and check the record of a stage run: `run.json` next to its outputs, which describes how they were made."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rr import paths
from rr.errors import UserError
from rr.params import parse_yaml, read_utf8
from rr.project import PACKAGE, PROJECT_FILES
from rr.runtime.atomic import replace_together, write_text
from rr.runtime.energy import measure_energy
from rr.runtime.formatting import utc_now
from rr.runtime.hashing import code_sha256, file_sha256, json_sha256
from rr.runtime.lock import exclusive_lock
from rr.runtime.machine import describe_machine, peak_memory_mib, read_git_commit
from rr.runtime.status import track_run
from rr.workflow.stage_runs import StageRun

CODE_SUFFIXES = (".py", ".html", ".css", ".js", ".md", ".csv")
_SECTIONS = ("params", "inputs", "code", "outputs")


def code_files(stage: str) -> list[Path]:
    """Return the code files that determine a stage's result, as listed in dvc.yaml, with paths such as rr/fetch.py.

    A folder in the list stands for its modules and templates; `.dvcignore` hides all other files from DVC.

    Raises:
        UserError: if dvc.yaml is damaged.
    """
    file = PROJECT_FILES / "dvc.yaml"
    try:
        entry = parse_yaml(read_utf8(file), file)["stages"][stage]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} does not define the stage {stage}: run git checkout dvc.yaml") from error
    root, files = PACKAGE.parent, set()
    for path in (root / dependency for dependency in entry["deps"] if dependency.startswith("rr/")):
        files |= {file for file in path.rglob("*") if file.suffix in CODE_SUFFIXES} if path.is_dir() else {path}
    return sorted(file.relative_to(root) for file in files)


def code_hashes(stage: str) -> dict[str, str]:
    """Return the hash of each file that `code_files` lists, ignoring comments, docstrings and formatting.

    Raises:
        UserError: if the code in the current folder differs from the running code. Both engines look at the files in
            the current folder, so each project must be run with its own installation of `rr`.
    """
    hashes = {}
    for path in code_files(stage):
        hashes[str(path)] = code_sha256(PACKAGE.parent / path)
        if Path("dvc.yaml").is_file() and (not path.is_file() or code_sha256(path) != hashes[str(path)]):
            is_git_clone = Path("rr").is_dir() and not Path("rr").is_symlink()
            remedy = (
                "run `make setup` here, and use .venv/bin/rr in this folder"
                if is_git_clone
                else "run `rr init` here, which links the rr folder to the installed code"
            )
            raise UserError(
                f"rr is running from {PACKAGE.parent}, but the code in this folder is different ({path} differs or is "
                f"missing): {remedy}"
            )
    return hashes


@dataclass
class RunRecorder:
    """What the record of a stage run contains, apart from the measurements of this process.

    Attributes:
        params: parameters of the run.
        inputs: hashes of its inputs.
        code: hashes of its modules.
        facts: entries that the stage adds to the record.
        earlier_sessions: the earlier processes that worked on the run, each with `started` and `seconds`, if the run
            was interrupted or continued from a run with fewer epochs.
        clean_up: deletes the files that are needed until the outputs and the record have been replaced.
    """

    params: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    earlier_sessions: list[dict[str, Any]] = field(default_factory=list)
    clean_up: Callable[[], object] | None = None

    def fingerprint(self, **arguments: Any) -> str:
        """Return a hash of everything that determines the result, including command-line `arguments`."""
        return json_sha256([self.params, self.inputs, self.code, arguments])


@contextmanager
def record_run(run: StageRun, *, is_main: bool = True) -> Iterator[RunRecorder]:
    """Lock the run's folder and execute the body, then replace the outputs and the record (`run.json`).

    The outputs that the body writes become visible only when it has succeeded. If it fails or is killed, the
    previous outputs and their record are unchanged. If the process is killed while the files are being replaced, the
    record is missing.

    In a distributed run, only the main process writes the record. The others (`is_main=False`) only check the inputs.

    Raises:
        UserError: before the body runs, if an input is missing or does not match its record, or if another process is
            writing to the run's folder.
    """
    if not is_main:
        yield _start_recorder(run)
        return
    with exclusive_lock(run.folder), track_run(run.stage, run.folder):
        recorder = _start_recorder(run)
        commit = read_git_commit()
        started, clock = utc_now(), time.monotonic()
        record_file = paths.record_file(run.folder)
        with replace_together([*run.outputs, record_file]) as new_files:
            with measure_energy() as meter:
                yield recorder
            earlier = recorder.earlier_sessions
            seconds = time.monotonic() - clock + sum(session["seconds"] for session in earlier)
            record = {
                "stage": run.stage,
                "command": shlex.join(["rr", *sys.argv[1:]]),
                "params": run.params,
                "inputs": recorder.inputs,
                "code": recorder.code,
                "commit": commit,
                "outputs": {str(path): file_sha256(new_files[path] or path) for path in run.outputs},
                "started": earlier[0]["started"] if earlier else started,
                "ended": utc_now(),
                "seconds": round(seconds, 3),
                "peak_memory_mib": peak_memory_mib(),
                "energy_joules": meter.joules(),
                "machine": describe_machine(),
                **({"earlier_sessions": earlier} if earlier else {}),
                **recorder.facts,
            }
            write_text(record_file, json.dumps(with_digest(record), indent=1) + "\n")
            # While the files are being replaced, no record may exist that describes different versions of them.
            record_file.unlink(missing_ok=True)
        if recorder.clean_up:
            recorder.clean_up()


def _start_recorder(run: StageRun) -> RunRecorder:
    code = code_hashes(run.stage) | extension_hashes(run)
    return RunRecorder(run.params, {str(path): _verified_hash(path) for path in run.inputs}, code)


def extension_hashes(run: StageRun) -> dict[str, str]:
    """Return the hash of each file with user-defined classes that the run uses."""
    return {str(path): code_sha256(path) for path in run.extension_module_files}


def with_digest(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with a hash of its contents under `digest`, which reveals accidental changes, not forgery."""
    contents = {key: value for key, value in record.items() if key != "digest"}
    return {**contents, "digest": json_sha256(contents)}


def _verified_hash(path: Path) -> str:
    """Return the SHA-256 of an input file. Raise UserError if it differs from the record of the stage that wrote it."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run {paths.producing_command(path)} first")
    sha256 = file_sha256(path)
    if path.name == paths.RECORD_NAME:
        load_record(path.parent)
    elif sha256 != recorded_sha256(path):
        raise UserError(
            f"{path} does not match its record (damaged or edited): run {paths.producing_command(path)} again"
        )
    return sha256


def load_record(folder: Path) -> dict[str, Any]:
    """Read the `run.json` in a folder.

    Raises:
        UserError: if the file is missing, is not a record, or has changed since it was written.
    """
    path = paths.record_file(folder)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_intact = isinstance(record, dict) and record == with_digest(record)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run {paths.producing_command(path)} first") from error
    except (ValueError, RecursionError):
        is_intact = False
    if not is_intact or any(not isinstance(record.get(key), dict) for key in _SECTIONS):
        raise UserError(
            f"{path} is damaged or is not a record: delete {folder} and run {paths.producing_command(path)} again"
        )
    return record


def recorded_sha256(path: Path) -> str:
    """Return the hash of a file written by a stage, as stored in that stage's record.

    Raises:
        UserError: if the record is missing or damaged.
    """
    if path.name == paths.RECORD_NAME:
        return file_sha256(path)
    return str(load_record(paths.find_record_folder(path))["outputs"].get(str(path)))


def find_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a folder, or None if it is missing or damaged."""
    try:
        return load_record(folder)
    except UserError:
        return None


def find_current_record(run: StageRun) -> dict[str, Any] | None:
    """Return the record of a run if it has the run's parameters, otherwise None. Code and files are not compared."""
    record = find_record(run.folder)
    return record if record and record["params"] == run.params else None


def find_local_copy(run: StageRun) -> Path | None:
    """Return the path of the local copy from which the current images were fetched, or None.

    When an engine reruns the stage, it does not pass `--from`. A local copy replaces the kind and the path of a source,
    so it is used again unless one of these has changed.
    """
    record = find_record(run.folder) or {}
    path = record.get("local_copy")
    return Path(path) if path and _kind_and_path(record["params"]) == _kind_and_path(run.params) else None


def _kind_and_path(fetch_params: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(source["kind"], source.get("path")) for source in fetch_params.values()]
