"""Section `settings`: the parameters that the runs recorded."""

from typing import Any

from rr.report.inputs.collect import GridResults
from rr.report.text_table import TextTable, text_table

_SECTIONS = ("methods", "protocols", "datasets")


def build_settings(results: GridResults) -> dict[str, TextTable]:
    """Return a table for each section of params.yaml, by its title; single parameters come last."""
    sections: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in _SECTIONS}
    other: dict[str, Any] = {}
    for record in results.records:
        for path, value in record.params.items():
            section, name, key = [*path.split(".", 2), "", ""][:3]
            entries = sections.get(section, {})
            if section in sections and name and key:
                entries.setdefault(name, {})[key] = value
            elif section in sections and name and isinstance(value, dict):
                entries[name] = value
            elif section in sections and isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()):
                entries.update(value)
            else:
                other[path] = value
    tables = {title.capitalize(): _settings_table(entries) for title, entries in sections.items() if entries}
    if other:
        tables["Other"] = text_table(["Setting", "value"], [[key, _format(value)] for key, value in other.items()])
    return tables


def _settings_table(entries: dict[str, dict[str, Any]]) -> TextTable:
    """Return a table with a column per entry of the section and a row per key."""
    keys = dict.fromkeys(key for values in entries.values() for key in values)
    rows = [[key, *(_format(values.get(key)) for values in entries.values())] for key in keys]
    return text_table(["Setting", *entries], rows)


def _format(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_format, value))
        case dict():
            return ", ".join(f"{key}: {_format(item)}" for key, item in value.items())
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)
