"""The `settings` section: the parameters that the runs recorded."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults
from rr.report.paper.settings import (
    is_augmentation_operation,
    paper_method_settings,
    paper_preprocessing,
    paper_protocol_settings,
)
from rr.report.table import Cell, Column, Table, make_table

_SECTIONS = ("methods", "backbones", "protocols", "datasets")


def build_settings(results: GridResults) -> dict[str, Table]:
    """Return tables by title: for each section of params.yaml, settings that differ between entries, and the others.

    A value that differs from the paper's has the paper's value as a note. The last table contains all other parameters.
    """
    sections: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in _SECTIONS}
    other: dict[str, Any] = {}
    for record in results.records:
        for path, value in (record.params | record.preprocessing).items():
            section, _, rest = path.partition(".")
            name, _, key = rest.partition(".")
            values = {key: value} if key else value
            if section in sections and name and isinstance(values, dict):
                sections[section].setdefault(name, {}).update(values)
            else:
                other[path] = value
    tables: dict[str, Table] = {}
    published = _published_settings(results)
    colors = {run.paths.method: run.color for run in results.pretrainings}
    for title, entries in sections.items():
        tables |= _settings_tables(title, entries, published.get(title, {}), colors if title == "methods" else {})
    if other:
        tables["Other"] = make_table(["Setting", "Value"], _flatten(other).items())
    return tables


def _published_settings(results: GridResults) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Return the paper's settings of each method, protocol and dataset in the grid, by section and name.

    A method has one entry for each backbone and dataset, because the paper's settings depend on them.
    """
    methods: dict[str, list[dict[str, str]]] = {}
    for run in results.pretrainings:
        settings = paper_method_settings(run.settings["kind"], run.paths.dataset, run.paths.backbone)
        methods.setdefault(run.paths.method, []).append(_flatten(settings))
    protocols: dict[str, list[dict[str, str]]] = {}
    for name, kind, target in unique((run.paths.protocol, run.kind, run.paths.target) for run in results.evaluations):
        protocols.setdefault(name, []).append(_flatten(paper_protocol_settings(kind, target)))
    names = [name for run in results.evaluations for name in (run.paths.pretraining.dataset, run.paths.target)]
    datasets = {name: [_flatten(paper_preprocessing(name))] for name in names}
    return {"methods": methods, "protocols": protocols, "datasets": datasets}


def _settings_tables(
    title: str,
    entries: dict[str, dict[str, Any]],
    published: Mapping[str, list[dict[str, str]]],
    colors: Mapping[str, int],
) -> dict[str, Table]:
    """Return a table of the settings that differ between the entries of a section, and one of the others.

    Args:
        title: the name of the section.
        entries: the settings of each method, protocol or dataset by its name.
        published: the paper's settings of each of them.
        colors: color number of each method.
    """
    columns = {name: _flatten(values) for name, values in entries.items()}
    keys = dict.fromkeys(key for values in columns.values() for key in values)
    differing: list[list[Cell]] = []
    same: list[list[Cell]] = []
    for key in keys:
        cells = [
            Cell(values.get(key, "–"), note=_paper_value_if_different(key, values, published.get(name, [])))
            for name, values in columns.items()
        ]
        # Entries without this setting are ignored: a method that is not trained has almost no settings.
        present = [cell for cell, values in zip(cells, columns.values(), strict=True) if key in values]
        if len(set(cells)) == 1 or (len(present) > 1 and len(set(present)) == 1):
            same.append([Cell(key), present[0]])
        else:
            differing.append([Cell(key), *cells])
    tables = {}
    if differing:
        headings = [Column(name, color=colors.get(name)) for name in columns]
        tables[title.capitalize()] = make_table(["Setting", *headings], differing)
    if same:
        which = "identical settings" if len(columns) > 1 else next(iter(columns))
        tables[f"{title.capitalize()}: {which}"] = make_table(["Setting", "Value"], same)
    return tables


def _paper_value_if_different(key: str, values: dict[str, str], published: list[dict[str, str]]) -> str:
    """Return the paper's value of a setting if it differs from ours in every run; else an empty string."""
    if key not in values or not all(published):  # the paper has no settings for one of the runs
        return ""
    section, _, name = key.partition(".")
    disabled = None
    if section in ("augmentation", "second_augmentation") and values[key] not in ("0", "none"):
        # The paper's augmentations contain only their enabled operations, so any other operation is disabled.
        disabled = "none" if name == "crop" else "0" if is_augmentation_operation(name) else None
    theirs = {value for settings in published if (value := settings.get(key, disabled)) is not None}
    return "" if not theirs or values[key] in theirs else f"paper: {' or '.join(sorted(theirs))}"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as text, with names such as `optimizer.kind`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: _format_cell_text(value)}
        )
    return flat


def _format_cell_text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_format_cell_text, value))
        case float():
            fraction = Fraction(value).limit_denominator(12)
            text = f"{value:.6g}"
            return str(fraction) if len(text) > 6 and math.isclose(value, fraction, rel_tol=1e-12) else text
        case _:
            return str(value)
