"""What made an artefact: `run.json` beside a stage's outputs, and the check that it still tells the truth."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rr import paths
from rr.atomic import write_text
from rr.errors import UserError

PACKAGES = ("torch", "torchvision", "ffcv", "numba", "numpy", "pyarrow", "scikit-learn", "dvc", "snakemake")


def sha256(path: Path) -> str:
    """Hash a file's bytes; 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hash a JSON value independently of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def stage_code(stage: str, pipeline: Path = Path("dvc.yaml")) -> list[Path]:
    """The modules that determine a stage's result, as `dvc.yaml` lists them: the one list, read by all."""
    if not pipeline.is_file():
        return []
    entry = YAML(typ="safe", pure=True).load(pipeline)["stages"][stage]
    return [Path(dependency) for dependency in entry["deps"] if dependency.startswith("rr/")]


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
def recording(
    stage: str, folder: Path, *, params: dict[str, Any], inputs: Sequence[Path], outputs: Sequence[Path]
) -> Iterator[Record]:
    """Run a stage, then write `folder/run.json`.

    Raises UserError, before the body runs, for an input that is missing or no longer what its own record says.
    """
    record = Record(params, {str(path): _checked(path) for path in inputs}, _hashes(stage_code(stage)))
    # A record speaks of outputs that exist. Without this, a failed try would leave an old record beside new files.
    paths.run_record(folder).unlink(missing_ok=True)
    started, clock = time.time(), time.monotonic()
    yield record
    content = {
        "stage": stage,
        "command": shlex.join(["rr", *sys.argv[1:]]),
        "params": params,
        "inputs": record.inputs,
        "code": record.code,
        "outputs": _hashes(outputs),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_mib": _peak_memory_mib(),
        "machine": machine(),
        **record.facts,
    }
    write_text(paths.run_record(folder), json.dumps(content, indent=1) + "\n")


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    return {str(path): sha256(path) for path in files}


def _checked(path: Path) -> str:
    """Hash an input and compare it with the record of the stage that made it."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run the stage that makes it first ({_maker(path)})")
    found = sha256(path)
    if path.name == paths.RUN_RECORD:
        return found  # a record cannot hold its own hash
    if found != load_record(path.parent)["outputs"].get(str(path)):
        raise UserError(
            f"{path} is not the file that its record describes (damaged or edited): run {_maker(path)} again"
        )
    return found


def load_record(folder: Path) -> dict[str, Any]:
    """Read a stage's `run.json`. Raises UserError when it is missing or no JSON."""
    path = paths.run_record(folder)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that makes it first ({_maker(path)})") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged (no JSON): delete {folder} and run its stage again") from error


def faults(folder: Path, params: dict[str, Any] | None = None) -> list[str]:
    """Compare a stage's record with the files it names; one line per difference, empty when all is true.

    Looks at outputs, inputs, code and, where given, the parameters in force now.
    """
    try:
        record = load_record(folder)
    except UserError as error:
        return [str(error)]
    found = []
    for kind in ("outputs", "inputs", "code"):
        for name, expected in record[kind].items():
            path = Path(name)
            if not path.is_file():
                found.append(f"{path} is missing ({kind} of {folder})")
            elif sha256(path) != expected:
                found.append(f"{path} has changed since {folder} was made ({kind})")
    if params is not None and params != record["params"]:
        found.append(f"{folder} was made with other parameters")
    return found


def machine() -> dict[str, Any]:
    """The surroundings that can change a figure or a time."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _peak_memory_mib() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _maker(path: Path) -> str:
    words = {"raw": "rr fetch", "beton": "rr convert", "pretrain": "rr pretrain", "evaluate": "rr evaluate"}
    return next((command for word, command in words.items() if word in path.parts), "dvc repro")
