"""Section `settings`: the parameters that the runs recorded."""

from typing import Any

from rr.report.inputs.collect import GridResults
from rr.report.text_table import TextTable, text_table

_SECTIONS = ("methods", "protocols", "datasets")


def build_settings(results: GridResults) -> dict[str, TextTable]:
    """Return a table for each section of params.yaml by its title. The last table has the remaining parameters."""
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
    tables = {title.capitalize(): _settings_table(entries) for title, entries in sections.items() if entries}
    if other:
        tables["Other"] = _settings_table({"Value": other})
    return tables


def _settings_table(entries: dict[str, dict[str, Any]]) -> TextTable:
    """Return a table with a column per entry of the section and a row per key."""
    keys = dict.fromkeys(key for values in entries.values() for key in values)
    rows = [[key, *(_format_setting(values.get(key)) for values in entries.values())] for key in keys]
    return text_table(["Setting", *entries], rows)


def _format_setting(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_format_setting, value))
        case dict():
            return ", ".join(f"{key}: {_format_setting(item)}" for key, item in value.items())
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)
