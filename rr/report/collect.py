"""The files of the grid, read and checked: the only module of the report that opens them."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from rr import paths
from rr.errors import UserError
from rr.grid import evaluations, pretrainings
from rr.params import Params
from rr.provenance import load_record

_PNG = b"\x89PNG\r\n\x1a\n"
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Metrics = TypeAdapter(dict[str, _Finite])


@dataclass(frozen=True)
class Machine:
    """Where a stage ran, and with which software."""

    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Record:
    """What the report needs of a `run.json`."""

    command: str
    device: str
    started: str
    seconds: _Finite
    peak_memory_mib: _Finite
    machine: Machine
    params: dict[str, Any]
    views_per_second: _Finite = 0.0


_Record = TypeAdapter(Record)


@dataclass(frozen=True)
class Run:
    """One pretraining: `history` maps each column to its values, one per epoch, and is empty where nothing trained."""

    cell: paths.Pretraining
    record: Record
    history: dict[str, list[float]]
    views: bytes

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.params[f"methods.{self.cell.method}"]


@dataclass(frozen=True)
class Score:
    """One evaluation; `metrics["accuracy"]` is a share in [0, 1]."""

    cell: paths.Evaluation
    record: Record
    metrics: dict[str, float]

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.params[f"protocols.{self.cell.protocol}"]


@dataclass(frozen=True)
class Collected:
    """All that the grid's runs left, in the grid's order."""

    runs: list[Run]
    scores: list[Score]

    @property
    def records(self) -> list[Record]:
        return [run.record for run in self.runs] + [score.record for score in self.scores]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `count` values; one value has no deviation."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Summarise the values of several seeds (at least one)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def collect(params: Params) -> Collected:
    """Read every run of the grid. Raises UserError that names a missing or damaged file, or runs that do not match."""
    runs = [
        Run(cell, _record(cell.folder, f"methods.{cell.method}"), _history(cell.history), _picture(cell.views))
        for cell in pretrainings(params)
    ]
    scores = [
        Score(cell, _record(cell.folder, f"protocols.{cell.protocol}"), _metrics(cell.metrics))
        for cell in evaluations(params)
    ]
    _check_equal_settings([*runs, *scores])
    return Collected(runs, scores)


def _record(folder: Path, settings: str) -> Record:
    """Read a record, which must hold the section `settings` with its `kind`."""
    try:
        record = _Record.validate_python(load_record(folder))
    except ValidationError as error:
        raise _damaged(paths.run_record(folder), _first(error)) from error
    section = record.params.get(settings)
    if not isinstance(section, dict) or not isinstance(section.get("kind"), str):
        raise _damaged(paths.run_record(folder), f"params.{settings}: no settings with a kind")
    return record


def _metrics(path: Path) -> dict[str, float]:
    try:
        metrics = _Metrics.validate_json(_read(path))
    except ValidationError as error:
        raise _damaged(path, _first(error)) from error
    if not 0 <= metrics.get("accuracy", math.nan) <= 1:
        raise _damaged(path, "no accuracy between 0 and 1")
    return metrics


def _history(path: Path) -> dict[str, list[float]]:
    """Columns of the history; none where there is a header alone. A loss is finite, any other value may be NaN."""
    try:
        header, *rows = csv.reader(_read(path).decode("utf-8").splitlines())
        columns = {name: [float(row[place]) for row in rows] for place, name in enumerate(header)}
    except (ValueError, IndexError) as error:
        raise _damaged(path, str(error)) from error
    if not {"epoch", "loss"} <= columns.keys() or any(len(row) != len(header) for row in rows):
        raise _damaged(path, "no table with the columns epoch and loss")
    if not all(map(math.isfinite, columns["epoch"] + columns["loss"])):
        raise _damaged(path, "an epoch or loss is no finite number")
    return columns if rows else {}


def _picture(path: Path) -> bytes:
    content = _read(path)
    if not content.startswith(_PNG) or len(content) < 33:
        raise _damaged(path, "no PNG")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that makes it first (rr {path.parts[1]})") from error


def _check_equal_settings(made: Sequence[Run | Score]) -> None:
    """Refuse a mean over runs of different settings: it would be a mean of nothing."""
    seen: dict[str, tuple[Any, Path]] = {}
    for one in made:
        for key, value in one.record.params.items():
            known, where = seen.setdefault(key, (value, one.cell.folder))
            if value != known:
                raise UserError(
                    f"{paths.run_record(one.cell.folder)}: its {key} differs from that of {paths.run_record(where)}: "
                    "bring the runs up to date (dvc repro or snakemake), then report again"
                )


def _first(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    return ": ".join(part for part in (".".join(map(str, mistake["loc"])), mistake["msg"]) if part)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): delete {path.parent} and run its stage again")
