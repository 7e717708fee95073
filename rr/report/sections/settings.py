"""Section `settings`: the parameters that the runs recorded."""

import math
from fractions import Fraction
from typing import Any

from rr.report.inputs.collect import GridResults
from rr.report.text_table import TextTable, text_table

_SECTIONS = ("methods", "backbones", "protocols", "datasets")


def build_settings(results: GridResults) -> dict[str, TextTable]:
    """Return the tables of each section of params.yaml by title: settings that differ, and those that are the same.

    The last table has the remaining parameters.
    """
    sections: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in _SECTIONS}
    other: dict[str, Any] = {}
    for record in results.records:
        for path, value in (record.params | record.preprocessing).items():
            section, name, key = [*path.split(".", 2), "", ""][:3]
            values = {key: value} if key else value
            if section in sections and name and isinstance(values, dict):
                sections[section].setdefault(name, {}).update(values)
            else:
                other[path] = value
    tables: dict[str, TextTable] = {}
    for title, entries in sections.items():
        tables |= _settings_tables(title, entries)
    if other:
        tables["Other"] = text_table(["Setting", "Value"], _flatten(other).items())
    return tables


def _settings_tables(title: str, entries: dict[str, dict[str, Any]]) -> dict[str, TextTable]:
    """Return a table of the settings that differ between the entries of a section, and one of the others."""
    columns = {name: _flatten(values) for name, values in entries.items()}
    keys = dict.fromkeys(key for values in columns.values() for key in values)
    rows = {key: [values.get(key, "–") for values in columns.values()] for key in keys}
    differing = [[key, *values] for key, values in rows.items() if len(set(values)) > 1]
    same = [[key, values[0]] for key, values in rows.items() if len(set(values)) == 1]
    tables = {}
    if differing:
        tables[title.capitalize()] = text_table(["Setting", *columns], differing)
    if same:
        which = "the same for all" if len(columns) > 1 else next(iter(columns))
        tables[f"{title.capitalize()}: {which}"] = text_table(["Setting", "Value"], same)
    return tables


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as text, with names such as `optimizer.kind`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: _format_setting(value)}
        )
    return flat


def _format_setting(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_format_setting, value))
        case float():
            fraction = Fraction(value).limit_denominator(12)
            text = f"{value:.6g}"
            return str(fraction) if len(text) > 6 and math.isclose(value, fraction, rel_tol=1e-12) else text
        case _:
            return str(value)
