"""What made an artefact: `run.json` beside a stage's outputs, and the check that it still tells the truth."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rr import paths
from rr.errors import UserError
from rr.runtime.atomic import write_text
from rr.runtime.energy import metering
from rr.runtime.hashing import digest, sha256
from rr.runtime.lock import holding
from rr.runtime.machine import commit, machine, peak_memory_mib
from rr.runtime.status import showing
from rr.workflow.grid import Cell

ROOT = Path(__file__).parents[2]
_SECTIONS = ("params", "inputs", "code", "outputs")
CODE = (".py", ".html", ".css", ".js", ".md", ".csv")


def stage_code(stage: str, root: Path = ROOT) -> list[Path]:
    """The modules that determine a stage's result, as `dvc.yaml` lists them: the one list, read by all.

    A folder there stands for its modules and templates, which are all that `.dvcignore` lets DVC see of it.
    """
    entry = YAML(typ="safe", pure=True).load(root / "dvc.yaml")["stages"][stage]
    found = set()
    for listed in (root / dependency for dependency in entry["deps"] if dependency.startswith("rr/")):
        found |= {file for file in listed.rglob("*") if file.suffix in CODE} if listed.is_dir() else {listed}
    return sorted(file.relative_to(root) for file in found)


def code_hashes(stage: str) -> dict[str, str]:
    """Hash the modules of `stage` that run. Raises UserError when the current folder holds other ones.

    Both engines look at the folder's own files, so a project must be run by its own installation.
    """
    found = {}
    for module in stage_code(stage):
        found[str(module)] = sha256(ROOT / module)
        if Path("dvc.yaml").is_file() and (not module.is_file() or sha256(module) != found[str(module)]):
            raise UserError(f"{module} here is not the code that runs ({ROOT / module}): run make in this folder first")
    return found


@dataclass
class Record:
    """A stage run in the making: what it starts from, and the facts that join its `run.json`."""

    params: dict[str, Any]
    inputs: dict[str, str]
    code: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    def fingerprint(self, **more: Any) -> str:
        """One hash of all that the result depends on; `more` is what the command line adds (such as the seed)."""
        return digest([self.params, self.inputs, self.code, more])


@contextmanager
def recording(cell: Cell, *, first: bool = True) -> Iterator[Record]:
    """Hold the cell's folder, run a stage, then write `run.json`.

    Of several processes that make the cell together, all but the `first` do none of it, and check the inputs alone.
    A try that fails before it has changed any output leaves the record of an earlier one as it was. Raises UserError,
    before the body runs, for an input that is missing or no longer what its own record says, and when another process
    is making the same cell.
    """
    if not first:
        yield _begun(cell)
        return
    with holding(cell.folder), showing(cell.stage, cell.folder):
        record = _begun(cell)
        version = commit()
        started, clock = time.time(), time.monotonic()
        with metering() as meter, _without_record(cell):
            yield record
        content = {
            "stage": cell.stage,
            "command": shlex.join(["rr", *sys.argv[1:]]),
            "params": cell.params,
            "inputs": record.inputs,
            "code": record.code,
            "commit": version,
            "outputs": {str(path): sha256(path) for path in cell.outputs},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.monotonic() - clock, 3),
            "peak_memory_mib": peak_memory_mib(),
            "energy_joules": meter.joules(),
            "machine": machine(),
            **record.facts,
        }
        write_text(paths.run_record(cell.folder), json.dumps(sealed(content), indent=1) + "\n")


@contextmanager
def _without_record(cell: Cell) -> Iterator[None]:
    """A record speaks of outputs that exist: after a failed try no old one may stand beside new files."""
    path = paths.run_record(cell.folder)
    try:
        old = load_record(cell.folder)
    except UserError:  # none, or a damaged one
        old = {}
    path.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if old and all(Path(name).is_file() and sha256(Path(name)) == told for name, told in old["outputs"].items()):
            write_text(path, json.dumps(old, indent=1) + "\n")
        raise


def _begun(cell: Cell) -> Record:
    return Record(cell.params, {str(path): _checked(path) for path in cell.inputs}, code_hashes(cell.stage))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the hash of all else in it, so that an accident to any fact is found; no guard against forgers."""
    facts = {key: value for key, value in record.items() if key != "digest"}
    return {**facts, "digest": digest(facts)}


def _checked(path: Path) -> str:
    """Hash an input and compare it with the record of the stage that made it."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run the stage that makes it first ({_maker(path)})")
    found = sha256(path)
    if path.name == paths.RUN_RECORD:
        load_record(path.parent)
        return found
    if found != load_record(paths.recorded_in(path))["outputs"].get(str(path)):
        raise UserError(
            f"{path} is not the file that its record describes (damaged or edited): run {_maker(path)} again"
        )
    return found


def load_record(folder: Path) -> dict[str, Any]:
    """Read a stage's `run.json`. Raises UserError when it is missing, none, or no longer as it was written."""
    path = paths.run_record(folder)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(record, dict) and record == sealed(record)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that makes it first ({_maker(path)})") from error
    except (ValueError, RecursionError):
        whole = False
    if not whole or any(not isinstance(record.get(key), dict) for key in _SECTIONS):
        raise UserError(f"{path} is damaged (no record of a run): delete {folder} and run its stage again")
    return record


def _maker(path: Path) -> str:
    words = {"raw": "rr fetch", "beton": "rr convert", "pretrain": "rr pretrain", "evaluate": "rr evaluate"}
    return next((command for word, command in words.items() if word in path.parts), "dvc repro")
