"""Read and check a run's files: record, metrics, history and PNG images."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from rr import paths
from rr.errors import UserError
from rr.report.grouping import unique
from rr.workflow.records import load_record

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33  # the signature and the header chunk, which includes the width
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Metrics = TypeAdapter(dict[str, _Finite])
_TOLERANCE = 1e-6  # rounding errors can put a metric slightly outside its range


@dataclass(frozen=True)
class Machine:
    """The machine and the software that ran a stage."""

    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Commit:
    """The code's commit, and whether the code had uncommitted changes."""

    id: str
    changed: bool


@dataclass(frozen=True)
class Session:
    """The machine and the device of an interrupted process that worked on a run."""

    machine: Machine
    device: str


@dataclass(frozen=True)
class RunRecord:
    """The fields of `run.json` that the report uses. Fields with a default may be missing from the file.

    `test_copies` is the number of test images of the target that have a copy in the training split.
    """

    command: str
    device: str
    started: str
    seconds: _Finite
    peak_memory_mib: _Finite
    machine: Machine
    params: dict[str, Any]
    code: dict[str, str]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    commit: Commit | None = None
    views_per_second: _Finite = 0.0
    energy_joules: dict[str, _Finite] = field(default_factory=dict)
    epoch_seconds: list[_Finite] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    earlier_sessions: list[Session] = field(default_factory=list)
    test_copies: int = 0

    @property
    def machines(self) -> list[Machine]:
        """The machines that worked on the run, in chronological order."""
        return unique([session.machine for session in self.earlier_sessions] + [self.machine])

    @property
    def total_seconds(self) -> float:
        """The duration of the run. In records written by earlier versions, `seconds` covers only the last process."""
        return max(self.seconds, sum(self.epoch_seconds))


_RunRecord = TypeAdapter(RunRecord)


def read_run_record(folder: Path, section: str | None = None) -> RunRecord:
    """Return the record of a run.

    Args:
        folder: the run's folder.
        section: a section of params.yaml, e.g. "methods.simclr", that the record must include and that must have a
            `kind`. If None, no section is required.

    Raises:
        UserError: if the record is missing or damaged, or does not include the section.
    """
    try:
        record = _RunRecord.validate_python(load_record(folder))
    except ValidationError as error:
        raise damaged_file_error(paths.record_file(folder), _first_message(error)) from error
    settings = record.params.get(section or "")
    if section and not (isinstance(settings, dict) and isinstance(settings.get("kind"), str)):
        raise damaged_file_error(paths.record_file(folder), f"its params contain no {section} with a 'kind'")
    return record


def read_metrics(path: Path, ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the metrics by name. `ranges` holds the minimum and maximum of each metric that must be present.

    Raises:
        UserError: if the file is missing or damaged, or if a metric is missing, not finite or out of range.
    """
    try:
        metrics = _Metrics.validate_json(read_bytes(path))
    except ValidationError as error:
        raise damaged_file_error(path, _first_message(error)) from error
    for name, (low, high) in ranges.items():
        if name not in metrics:
            raise damaged_file_error(path, f"the metric {name} is missing")
        if not low - _TOLERANCE <= metrics[name] <= high + _TOLERANCE:
            raise damaged_file_error(path, f"{name} is {metrics[name]:g}, but must be between {low:g} and {high:g}")
    return metrics


def read_history(path: Path) -> dict[str, list[float]]:
    """Return the columns of a training history by name.

    Empty cells become NaN. The result is empty if the file has no rows, which means that nothing was trained.

    Raises:
        UserError: if the file is missing or damaged, if the `epoch` or `loss` column is missing, or if an epoch or a
            loss is not finite.
    """
    try:
        header, *rows = list(csv.reader(read_bytes(path).decode("utf-8").splitlines())) or [[]]
        if not {"epoch", "loss"} <= set(header) or any(len(row) != len(header) for row in rows):
            raise ValueError("not a CSV table with the columns epoch and loss")
        columns = {name: [float(row[index] or "nan") for row in rows] for index, name in enumerate(header)}
        for number, values in enumerate(zip(columns["epoch"], columns["loss"], strict=True), 1):
            if not all(map(math.isfinite, values)):
                raise ValueError(f"row {number}: the epoch or the loss is not a finite number")
    except (ValueError, csv.Error) as error:
        raise damaged_file_error(path, str(error)) from error
    return columns if rows else {}


def read_image_names(path: Path) -> list[str]:
    """Return the name of each image in a raw file, such as its path in the user's folder.

    The list is empty if the file is absent or cannot be read. For example, published results do not include the images.
    """
    try:
        return [image["path"] or "" for image in pq.ParquetFile(path).read(columns=["image.path"])["image"].to_pylist()]
    except (OSError, pa.ArrowException, KeyError):
        return []


def read_png(path: Path) -> bytes:
    """Return the content of a PNG file.

    Raises:
        UserError: if the file is missing or not a PNG image.
    """
    content = read_bytes(path)
    if not content.startswith(_PNG_SIGNATURE) or len(content) < _PNG_HEADER_BYTES:
        raise damaged_file_error(path, "not a PNG image")
    return content


def read_bytes(path: Path) -> bytes:
    """Return the content of a stage output.

    Raises:
        UserError: if the file is missing. The message names the command that writes the file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run {paths.producing_command(path)} first") from error


def damaged_file_error(path: Path, reason: str) -> UserError:
    """Return the error to raise for a stage output with invalid content."""
    folder = paths.find_record_folder(path)
    return UserError(f"{path} is damaged ({reason}): delete {folder} and run {paths.producing_command(path)} again")


def _first_message(error: ValidationError) -> str:
    """Return the location and the description of the first error."""
    first = error.errors(include_url=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
