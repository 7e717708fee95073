"""The files that stages left, opened and checked one by one: records, metrics, histories and pictures."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from rr import paths
from rr.errors import UserError
from rr.workflow.records import load_record

_PNG = b"\x89PNG\r\n\x1a\n"
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Metrics = TypeAdapter(dict[str, _Finite])
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Machine:
    """Where a stage ran, and with which software."""

    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Commit:
    """Which version of the project ran, and whether its files differed from that version's."""

    id: str
    changed: bool


@dataclass(frozen=True)
class Record:
    """What the report needs of a `run.json`; what has a default here may not have been recorded."""

    command: str
    device: str
    started: str
    seconds: _Finite
    peak_memory_mib: _Finite
    machine: Machine
    params: dict[str, Any]
    code: dict[str, str]
    commit: Commit | None = None
    views_per_second: _Finite = 0.0
    energy_joules: dict[str, _Finite] = field(default_factory=dict)
    epoch_seconds: list[_Finite] = field(default_factory=list)


_Record = TypeAdapter(Record)


def record(folder: Path, settings: str) -> Record:
    """Read a record, which must hold the section `settings` with its `kind`."""
    try:
        found = _Record.validate_python(load_record(folder))
    except ValidationError as error:
        raise damaged(paths.run_record(folder), _first(error)) from error
    section = found.params.get(settings)
    if not isinstance(section, dict) or not isinstance(section.get("kind"), str):
        raise damaged(paths.run_record(folder), f"params.{settings}: no settings with a kind")
    return found


def metrics(path: Path, bounds: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Read finite numbers by name; those of `bounds` must be there and lie between their two values."""
    try:
        found = _Metrics.validate_json(read(path))
    except ValidationError as error:
        raise damaged(path, _first(error)) from error
    for name, (least, most) in bounds.items():
        if not least - _ROUNDING <= found.get(name, math.nan) <= most + _ROUNDING:
            raise damaged(path, f"no {name} between {least:g} and {most:g}")
    return found


def history(path: Path) -> dict[str, list[float]]:
    """Columns of the history; none where there is a header alone. A loss is finite; an empty cell becomes NaN."""
    try:
        header, *rows = csv.reader(read(path).decode("utf-8").splitlines())
        columns = {name: [float(row[place] or "nan") for row in rows] for place, name in enumerate(header)}
    except (ValueError, IndexError) as error:
        raise damaged(path, str(error)) from error
    if not {"epoch", "loss"} <= columns.keys() or any(len(row) != len(header) for row in rows):
        raise damaged(path, "no table with the columns epoch and loss")
    if not all(map(math.isfinite, columns["epoch"] + columns["loss"])):
        raise damaged(path, "an epoch or loss is no finite number")
    return columns if rows else {}


def picture(path: Path) -> bytes:
    """Read a PNG."""
    content = read(path)
    if not content.startswith(_PNG) or len(content) < 33:
        raise damaged(path, "no PNG")
    return content


def read(path: Path) -> bytes:
    """Read a file. Raises UserError that names a missing one and the command that makes it."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that makes it first (rr {path.parts[1]})") from error


def damaged(path: Path, why: str) -> UserError:
    """The error that says which file is damaged, how, and what to do."""
    return UserError(f"{path} is damaged ({why}): delete {path.parent} and run its stage again")


def _first(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    return ": ".join(part for part in (".".join(map(str, mistake["loc"])), mistake["msg"]) if part)
