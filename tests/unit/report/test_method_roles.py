"""Test that only self-supervised methods compete for the best result, and that the report says what the others are."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_files import (
    ACCURACY,
    METHODS,
    change_record,
    make_params,
    normalized_rows,
    read_markdown,
    read_page,
    write_grid_files,
)

from rr.params import ExtensionConfig, Params
from rr.paths import REPORT_FILES
from rr.report.inputs.collect import collect_results
from rr.report.method_roles import Role, find_role
from rr.report.result_tables import accuracy_tables
from rr.report.sections.summary import summarize_tables
from rr.report.stage import write_report
from rr.workflow.grid import evaluations, pretrainings

WEIGHTS = {"path": "weights.safetensors", "sha256": "0" * 64}
IMPORTED = {"kind": "imported", **WEIGHTS}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own folder."""
    monkeypatch.chdir(tmp_path)


def write_grid(settings: dict[str, dict[str, Any]], **axes: tuple[str, ...]) -> Params:
    """Write a grid in which the runs of some methods have recorded these settings."""
    params = make_params(**axes)  # type: ignore[arg-type]
    write_grid_files(params)
    for run in pretrainings(params):
        if run.method in settings:
            change_record(run.folder, params={f"methods.{run.method}": settings[run.method], "threads": 1})
    return params


def read_latex() -> str:
    return REPORT_FILES[3].read_text(encoding="utf-8")


def test_roles() -> None:
    assert {name: find_role(settings) for name, settings in METHODS.items()} == {
        "random": Role.LOWER_BOUND, "supervised": Role.UPPER_BOUND, "relational": Role.SELF_SUPERVISED,
        "simclr": Role.SELF_SUPERVISED,
    }  # fmt: skip
    assert find_role(IMPORTED) == Role.IMPORTED
    assert find_role(METHODS["relational"] | {"label_fraction": 0.1}) == Role.SEMI_SUPERVISED
    assert find_role(METHODS["relational"] | {"label_fraction": 1.0}) == Role.TRAINED_WITH_LABELS
    assert find_role(METHODS["simclr"] | {"initial_weights": WEIGHTS}) == Role.INITIAL_WEIGHTS
    assert find_role(METHODS["simclr"] | {"initial_weights": None}) == Role.SELF_SUPERVISED
    assert find_role({"kind": "mine:Mine"}, 1.0) == Role.TRAINED_WITH_LABELS


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (IMPORTED, "imported"),
        (METHODS["relational"] | {"label_fraction": 0.1}, "semi-supervised"),
        (METHODS["relational"] | {"label_fraction": 1.0}, "trained with labels"),
        (METHODS["relational"] | {"initial_weights": WEIGHTS}, "initial weights"),
    ],
)
def test_best_method_is_self_supervised(settings: dict[str, Any], note: str) -> None:
    # Here, `relational` is better than `simclr`, but it is not self-supervised.
    params = write_grid({"relational": settings}, methods=("random", "supervised", "relational", "simclr"))
    write_report(params)
    for text in (read_page().text, " ".join(read_markdown().split())):
        assert "On shapes, simclr classifies 55.00 ± 0.00% of the test images correctly (linear), above" in text
        assert "unbiased predictions: simclr (linear) classifies 55.00%" in text
        assert f"{note}: " in text
        assert "list explains the notes" in text
    assert "| **55.00 ± 0.00** |" in read_markdown()
    assert "**61.50" not in read_markdown()
    assert [f"relational {note}", "61.50 ± 2.12", "50.00 ± 0.00", "–"] in normalized_rows(read_page())
    assert rf"relational ({note}) & 61.50" in read_latex()
    assert f" {note.capitalize()}: " in read_latex()


def test_imported_weights_are_not_pretrained_on_the_dataset() -> None:
    protocols = ("linear", "retrieval", "embedding")
    params = write_grid({"relational": IMPORTED}, methods=("random", "relational", "simclr"), protocols=protocols)
    write_report(params)
    text = read_page().text
    assert text.count("conv4 pretrained on shapes (except imported weights)") == 4  # once in each of the four sections
    assert text.count("pretrained on shapes") == 4
    assert "of conv4 pretrained on shapes (except imported weights), mean" in read_latex()


def test_report_without_self_supervised_method() -> None:
    params = write_grid({"relational": IMPORTED}, methods=("random", "relational"))
    write_report(params)
    for text in (read_page().text, " ".join(read_markdown().split())):
        assert (
            "On shapes, relational (imported) classifies 61.50 ± 2.12% of the test images correctly (linear), above "
            "random (41.00%)."
        ) in text
        assert "in bold" not in text
        assert "pretrained on shapes" not in text
    assert "**61.50" not in read_markdown()
    assert "pretrained" not in read_latex()
    assert "bold" not in read_latex()


def test_comparisons_count_only_self_supervised_methods() -> None:
    datasets = ("a", "b")
    params = write_grid({"relational": IMPORTED}, methods=("random", "supervised", "relational"), datasets=datasets)
    tables = accuracy_tables(collect_results(params))
    assert len(tables) == 4
    assert summarize_tables(tables).startswith(
        "There is nothing to compare: no table contains both a self-supervised method"
    )


def test_sentences_on_tables_without_bounds_or_without_other_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCURACY, ("simclr", "linear"), ACCURACY["relational", "linear"])
    write_grid({}, methods=("random", "supervised", "relational", "simclr"))
    tables = accuracy_tables(collect_results(make_params(methods=("random", "supervised"))))
    assert summarize_tables(tables) == "This table shows only bounds, because it has no self-supervised method."
    tables = accuracy_tables(collect_results(make_params(methods=("random", "relational", "simclr"))))
    expected = "of the test images correctly (linear), tied with 1 other method, above random (41.00%). "
    assert expected in summarize_tables(tables)


def test_notes_are_explained_without_accuracies() -> None:
    params = write_grid({"relational": IMPORTED}, methods=("random", "relational"), protocols=("embedding",))
    write_report(params)
    for text in (read_page().text, " ".join(read_markdown().split())):
        assert "Lower bound: the untrained backbone with its initial weights. Imported: weights from" in text


def test_own_method_with_labels_is_not_self_supervised() -> None:
    class OwnConfig(ExtensionConfig):
        label_fraction = 1.0

    own = {key: METHODS["simclr"][key] for key in ("augmentation", "views", "batch_size", "epochs", "learning_rate")}
    own["kind"] = "mine:Mine"
    params = write_grid({"simclr": own}, methods=("random", "relational", "simclr"))
    config = OwnConfig.model_validate_json(json.dumps(own))
    results = collect_results(params.model_copy(update={"methods": params.methods | {"simclr": config}}))
    assert {run.paths.method: run.role for run in results.pretrainings} == {
        "random": Role.LOWER_BOUND, "relational": Role.SELF_SUPERVISED, "simclr": Role.TRAINED_WITH_LABELS,
    }  # fmt: skip


@pytest.mark.parametrize(("settings", "count"), [(IMPORTED, 0), (METHODS["relational"] | {"label_fraction": 0.1}, 2)])
def test_collapse_is_checked_for_trained_methods(settings: dict[str, Any], count: int) -> None:
    params = write_grid({"relational": settings}, methods=("supervised", "relational"), protocols=("embedding",))
    for run in evaluations(params):
        run.metrics.write_text(json.dumps(json.loads(run.metrics.read_text()) | {"rankme": 1.5}))
    write_report(params)
    assert read_page().text.count("may have collapsed") == count
