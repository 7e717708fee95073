"""What ran where and how long, and with which settings, as tables of words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr import paths
from rr.report.inputs.collect import Collected, Run, Score
from rr.report.inputs.files import Machine, Record

_SECTIONS = ("methods", "protocols", "datasets")


@dataclass(frozen=True)
class Line:
    """One stage run; `machine` is the letter of its machine, `version` that of its code."""

    record: Record
    file: Path
    machine: str
    version: str


@dataclass(frozen=True)
class Settings:
    """One section of params.yaml as the runs recorded it: `columns` are its names, each row one key."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def machines(grid: Collected) -> dict[str, Machine]:
    """Every different machine, under a letter (A, B, …)."""
    different: list[Machine] = []
    for record in grid.records:
        if record.machine not in different:
            different.append(record.machine)
    return {letter(place): machine for place, machine in enumerate(different)}


def lines(made: Sequence[Run | Score], known: dict[str, Machine], versions: Sequence[str]) -> list[Line]:
    """One line per stage run; `versions` are the letters of their code."""
    letters = list(known)
    every = list(known.values())
    return [
        Line(one.record, paths.run_record(one.cell.folder), letters[every.index(one.record.machine)], version)
        for one, version in zip(made, versions, strict=True)
    ]


def duration(seconds: float) -> str:
    """Seconds in words that a person would use."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def energy(record: Record) -> str:
    """The energy that the machine's counters grew by while a stage ran, by kind; a dash where none could be read."""
    kinds = {"processors": "processors", "gpus": "GPUs"}
    parts = [
        f"{joules / 3600:,.2f} Wh ({kinds[kind]})" for kind, joules in record.energy_joules.items() if kind in kinds
    ]
    return " + ".join(parts) or "–"


def settings(grid: Collected) -> list[Settings]:
    """The recorded parameters by section; what belongs to no section comes last."""
    sections: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in _SECTIONS}
    other: dict[str, Any] = {}
    for record in grid.records:
        for path, value in record.params.items():
            section, name, key = [*path.split(".", 2), "", ""][:3]
            known = sections.get(section, {})
            if section in sections and name and key:
                known.setdefault(name, {})[key] = value
            elif section in sections and name and isinstance(value, dict):
                known[name] = value
            elif section in sections and isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()):
                known.update(value)
            else:
                other[path] = value
    found = [_transposed(title, columns) for title, columns in sections.items() if columns]
    if other:
        found.append(Settings("Others", ["value"], [(key, [_value(value)]) for key, value in other.items()]))
    return found


def _transposed(title: str, columns: dict[str, dict[str, Any]]) -> Settings:
    keys: Iterable[str] = dict.fromkeys(key for values in columns.values() for key in values)
    rows = [(key, [_value(values.get(key)) for values in columns.values()]) for key in keys]
    return Settings(title.capitalize(), list(columns), rows)


def _value(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_value, value))
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def letter(place: int) -> str:
    """A, B, …: the name of the thing at `place`, from 0."""
    return chr(ord("A") + place) if place < 26 else f"A{place - 25}"
