"""Test the `settings` section: what differs between methods, and what is the same."""

from rr.params import Params
from rr.report.inputs.collect import collect_results
from rr.report.paper.settings import paper_method_settings, paper_protocol_settings
from rr.report.sections.settings import _flatten, _settings_tables, build_settings
from rr.report.table import Table

ENTRIES = {
    "a": {"kind": "relational", "augmentation": {"ratio": [3 / 4, 4 / 3], "flip": 0.5}, "epochs": 200, "head": None},
    "b": {"kind": "simclr", "augmentation": {"ratio": [3 / 4, 4 / 3], "flip": 0.25}, "epochs": 200, "nested": True},
}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_differing_and_equal_settings_are_separate() -> None:
    tables = _settings_tables("methods", ENTRIES, {}, {})
    assert list(tables) == ["Methods", "Methods: identical settings"]
    assert [column.title for column in tables["Methods"].columns] == ["Setting", "a", "b"]
    assert texts(tables["Methods"]) == [
        ["kind", "relational", "simclr"], ["augmentation.flip", "0.5", "0.25"], ["nested", "–", "yes"],
    ]  # fmt: skip
    assert texts(tables["Methods: identical settings"]) == [
        ["augmentation.ratio", "0.75, 4/3"], ["epochs", "200"], ["head", "–"],
    ]  # fmt: skip


def test_single_entry_has_one_table() -> None:
    tables = _settings_tables("methods", {"a": {"learning_rate": 0.0001, "momentum": 0.123456789}}, {}, {})
    assert list(tables) == ["Methods: a"]
    assert texts(tables["Methods: a"]) == [["learning_rate", "0.0001"], ["momentum", "0.123457"]]
    assert _settings_tables("methods", {}, {}, {}) == {}


def test_a_value_that_is_not_the_papers_has_a_note() -> None:
    augmentation = {"flip": 0.5, "jitter": 0.8, "brightness": 0.4, "blur": 0.5, "solarize": 0.0, "padding": 0.125}
    entries = {"a": {"kind": "relational", "views": 4, "augmentation": augmentation, "epochs": 200}}
    published = [_flatten(paper_method_settings("relational", "cifar10", "conv4"))]
    (table,) = _settings_tables("methods", entries, {"a": published}, {}).values()
    notes = {setting.text: value.note for setting, value in table.rows if value.note}
    assert notes == {"views": "paper: 32", "augmentation.brightness": "paper: 0.8", "augmentation.blur": "paper: 0"}
    own = {"crop": "resized", "scale": [0.5, 1.0], "flip": 0.5, "blur": 0.0}
    entries = {"b": {"kind": "simclr", "loss": "nt-xent", "second_augmentation": own}}
    (table,) = _settings_tables(
        "methods", entries, {"b": [_flatten(paper_method_settings("simclr", "cifar10", "conv4"))]}, {}
    ).values()
    assert {setting.text: value.note for setting, value in table.rows if value.note} == {
        "loss": "paper: log-mean-prob", "second_augmentation.crop": "paper: none",
        "second_augmentation.flip": "paper: 0",
    }  # fmt: skip
    entries = {"a": {"kind": "relational", "augmentation": augmentation, "views": 4}}
    # In one of two runs, the value is the paper's.
    entries["a"]["views"] = 16
    published.append(_flatten(paper_method_settings("relational", "tiny-imagenet", "resnet32")))
    (table,) = _settings_tables("methods", entries, {"a": published}, {}).values()
    assert "views" not in {setting.text for setting, value in table.rows if value.note}


def test_settings_that_the_paper_does_not_have_are_not_marked() -> None:
    assert paper_method_settings("byol", "cifar10", "conv4") == {}
    assert paper_protocol_settings("knn", "cifar10") == {}
    assert paper_protocol_settings("finetune", "cifar10") == {}  # only on STL-10
    assert paper_protocol_settings("finetune", "stl10")["augmentation"]["erase_area"] == 0.111
    for published in ({}, {"a": [{}]}):
        (table,) = _settings_tables("methods", {"a": {"kind": "byol", "views": 2}}, published, {}).values()
        assert not any(cell.note for row in table.rows for cell in row)


def test_a_method_without_a_setting_does_not_make_it_differ() -> None:
    entries = {"a": {"epochs": 200, "gamma": 2.0}, "b": {"epochs": 200}, "random": {}}
    tables = _settings_tables("methods", entries, {}, {})
    assert {title: texts(table) for title, table in tables.items()} == {
        "Methods": [["gamma", "2", "–", "–"]],
        "Methods: identical settings": [["epochs", "200"]],
    }


def test_method_and_protocol_may_have_the_same_name(full_grid: Params) -> None:
    results = collect_results(full_grid)
    expected = build_settings(results)
    # The paper's settings for the protocol differ from those for the method of the same name.
    for run in results.evaluations:
        if run.kind == "linear":
            run.record.params["protocols.relational"] = run.record.params.pop("protocols.linear")
            object.__setattr__(run.paths, "protocol", "relational")
    actual = build_settings(results)
    for section in ("Methods", "Protocols"):
        notes = [[[cell.note for cell in row] for row in tables[section].rows] for tables in (expected, actual)]
        assert notes[0] == notes[1]
        assert any(note for row in notes[0] for note in row)
