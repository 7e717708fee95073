"""Test the section `settings`: what differs between methods, and what is the same."""

from rr.report.sections.settings import _settings_tables
from rr.report.text_table import TextTable

ENTRIES = {
    "a": {"kind": "relational", "augmentation": {"ratio": [3 / 4, 4 / 3], "flip": 0.5}, "epochs": 200, "head": None},
    "b": {"kind": "simclr", "augmentation": {"ratio": [3 / 4, 4 / 3], "flip": 0.25}, "epochs": 200, "nested": True},
}


def texts(table: TextTable) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_differing_and_equal_settings_are_separate() -> None:
    tables = _settings_tables("methods", ENTRIES)
    assert list(tables) == ["Methods", "Methods: the same for all"]
    assert [column.title for column in tables["Methods"].columns] == ["Setting", "a", "b"]
    assert texts(tables["Methods"]) == [
        ["kind", "relational", "simclr"], ["augmentation.flip", "0.5", "0.25"], ["nested", "–", "yes"],
    ]  # fmt: skip
    assert texts(tables["Methods: the same for all"]) == [
        ["augmentation.ratio", "0.75, 4/3"], ["epochs", "200"], ["head", "–"],
    ]  # fmt: skip


def test_single_entry_has_one_table() -> None:
    tables = _settings_tables("methods", {"a": {"learning_rate": 0.0001, "momentum": 0.123456789}})
    assert list(tables) == ["Methods: a"]
    assert texts(tables["Methods: a"]) == [["learning_rate", "0.0001"], ["momentum", "0.123457"]]
    assert _settings_tables("methods", {}) == {}
