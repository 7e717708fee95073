"""Test the page and its Markdown version: values computed by hand, escaped text, and no external resources."""

import base64
import csv
import hashlib
import json
import math
import re
import warnings
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_files import (
    ACCURACY,
    CLASSIFICATION,
    METHODS,
    PROTOCOLS,
    RELATIONAL,
    ParsedPage,
    change_record,
    make_params,
    normalized_rows,
    read_markdown,
    read_page,
    write_dynamics,
    write_grid_files,
    write_predictions,
)

from rr import paths
from rr.params import Params
from rr.paths import REPORT_FILES
from rr.pretrain.loop import RESERVED_METRICS
from rr.report.formatting import format_exact_duration
from rr.report.page import escape_markdown
from rr.report.sections.curves import OTHER_COLUMNS
from rr.report.stage import write_report
from rr.report.statistics import mean_std
from rr.workflow.grid import evaluations, pretrainings


def write_metrics(run: paths.PretrainPaths, protocol: str, accuracy: float, target: str = "shapes") -> None:
    """Replace the metrics of an evaluation."""
    path = paths.EvaluationPaths(run, target, protocol).metrics
    path.write_text(f'{{"accuracy": {accuracy}, "calibration_error": 0}}')


def test_mean_and_std() -> None:
    result = mean_std([0.60, 0.63])
    assert result.mean == pytest.approx(0.615)
    assert result.std == pytest.approx(0.03 / math.sqrt(2))
    assert mean_std([1.0, 2.0, 3.0, 4.0]).std == pytest.approx(math.sqrt(5 / 3))
    assert mean_std([0.5]).std is None


def test_page_shows_means_and_seeds(params: Params) -> None:
    write_report(params)
    page = read_page()
    rows = normalized_rows(page)
    assert ["Method", "linear", "knn", "trained classifier"] in rows
    assert ["random lower bound", "41.00 ± 1.41", "30.00 ± 0.00", "–"] in rows
    assert ["supervised upper bound", "81.00 ± 1.41", "72.00 ± 2.83", "91.50 ± 0.71"] in rows
    assert ["relational", "61.50 ± 2.12", "50.00 ± 0.00", "–"] in rows
    assert ["relational", "linear", "60.00", "63.00"] in rows
    assert ["supervised", "trained classifier", "91.00", "92.00"] in rows
    assert (
        "Accuracy in percent on shapes (1,000 test images, 10 classes) with conv4 pretrained on shapes; 2 seeds."
        in " ".join(page.text.split())
    )
    assert ["views", "–", "1", "4 paper: 32"] in rows
    assert ["processor", "Abacus 9"] in rows
    assert page.text.count("1 min 16 s") >= 18
    assert "Pretraining: 6 runs, 7 min 33 s in total" in page.text


def test_copies_of_test_images_are_mentioned(params: Params) -> None:
    change_record(paths.EvaluationPaths(RELATIONAL, "shapes", "linear").folder, test_copies=120)
    write_report(params)
    text = "on shapes (1,000 test images, 120 of them with a copy in the training split, 10 classes) with"
    assert text in " ".join(read_page().text.split())


def test_duration_of_an_interrupted_run_includes_all_its_epochs(params: Params) -> None:
    change_record(RELATIONAL.folder, epoch_seconds=[1000.0, 500.0])  # the last process took 75.5 s
    write_report(params)
    page = read_page()
    assert page.text.count("25 min 00 s") == 1
    assert "Pretraining: 6 runs, 31 min 18 s in total" in page.text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (90_300, "25 h 05 min"),
    ],
)
def test_unit_of_a_duration_depends_on_its_length(seconds: float, expected: str) -> None:
    assert format_exact_duration(seconds) == expected


def test_interrupted_run_has_all_its_machines(params: Params) -> None:
    machine = json.loads(paths.record_file(RELATIONAL.folder).read_text())["machine"] | {"processor": "Slide rule"}
    change_record(RELATIONAL.folder, earlier_sessions=[{"machine": machine, "device": "cpu"}])
    write_report(params)
    rows = normalized_rows(read_page())
    assert any({"A, B", "B, A"} & {*row} for row in rows)
    assert any(row[:1] == ["processor"] and "Slide rule" in row for row in rows)


def test_only_self_supervised_methods_are_bold(params: Params) -> None:
    write_report(params)
    html, markdown = (path.read_text(encoding="utf-8") for path in REPORT_FILES[:2])
    assert re.findall(r"<td[^>]*><strong>([\d.]+)", html) == ["61.50", "50.00"]
    assert "| relational | **61.50 ± 2.12** | **50.00 ± 0.00** | – |" in markdown
    assert "| supervised (upper bound) | 81.00 ± 1.41 | 72.00 ± 2.83 | 91.50 ± 0.71 |" in markdown


def test_finding_compares_the_best_method_with_its_bounds(params: Params) -> None:
    write_report(params)
    expected = (
        "On shapes, relational classifies 61.50 ± 2.12% of the test images correctly (linear), above random "
        "(41.00%) and below supervised (81.00%). This is 51% of the way from the lower to the upper bound. Means "
        "are over 2 seeds."
    )
    assert expected in read_page().text
    assert expected in read_markdown()


def test_finding_reports_a_method_below_its_lower_bound(params: Params) -> None:
    for seed in (1, 2):
        write_metrics(paths.PretrainPaths("shapes", "conv4", "relational", seed), "linear", 0.1)
    write_report(params)
    assert "below random (41.00%) and below supervised (81.00%). Means" in read_page().text


def test_single_seed_has_no_standard_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(seeds=(1,))
    write_grid_files(params)
    write_report(params)
    page = read_page()
    assert not any("±" in cell for row in page.rows for cell in row)
    assert ["relational", "60.00", "50.00", "–"] in page.rows
    assert "Only one seed was run" in page.text
    assert "pm" not in REPORT_FILES[3].read_text(encoding="utf-8")
    assert "±" not in read_markdown()


def test_finding_names_the_best_method_on_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(datasets=("shapes", "others"))
    params = params.model_copy(update={"grid": [params.grid[0].model_copy(update={"dataset": ["shapes"]})]})
    write_grid_files(params)
    for seed in (1, 2):
        write_metrics(paths.PretrainPaths("shapes", "conv4", "relational", seed), "linear", 0.9, target="others")
    write_report(params)
    expected = (
        "On shapes, relational classifies 61.50 ± 2.12% of the test images correctly (linear), above random (41.00%) "
        "and below supervised (81.00%). On others, relational classifies 90.00 ± 0.00% of the test images correctly "
        "(linear), above random (41.00%) and above supervised (81.00%). Means are over 2 seeds."
    )
    assert expected in read_page().text


def test_finding_counts_over_several_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(datasets=("shapes", "others"))
    write_grid_files(params)
    for seed in (1, 2):
        write_metrics(paths.PretrainPaths("others", "conv4", "relational", seed), "knn", 0.9)
    write_report(params)
    page = read_page()
    expected = (
        "is above the random backbone in 8 of 8 comparisons and matches or exceeds the supervised backbone in 1 of 8 "
        "comparisons. "
        "Means"
    )
    assert expected in page.text
    assert len(page.ids) == len(set(page.ids))
    assert sum(row[:3] == ["Method", "linear", "knn"] for row in page.rows) == 4
    # A trained classifier is tested only on the dataset that it was trained on.
    assert sum(row[3:] == ["trained classifier"] for row in page.rows) == 2
    assert "### others, conv4 → shapes" in read_markdown()


def test_grid_with_only_bounds_has_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(methods=("random",))
    write_grid_files(params)
    write_report(params)
    assert "no self-supervised method" in read_page().text
    assert "curves" not in read_page().ids


def test_page_is_self_contained(params: Params) -> None:
    write_report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    page = ParsedPage(html)
    assert not page.unclosed
    assert len(page.ids) == len(set(page.ids))
    assert not {"iframe", "object", "link:stylesheet"} & set(page.elements)
    # There is only one script, because there is no map. The security policy permits only the script with this hash.
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{code}'; img-src data:" in html
    for link in page.links:
        assert re.match(r"(#|data:|\.\./runs/|results\.parquet$|report\.md$)", link), link
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert (paths.REPORT_DIR / link).resolve().is_file(), link
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in page.ids}
    # There are two plots for each of two trained methods, one for each of two protocols, a confusion matrix for each of
    # three methods, and one plot of their calibration. Each method has an image of views.
    assert page.elements["svg"] == 10
    assert page.elements["img"] == 3
    assert page.elements["caption"] == page.elements["table"]


def test_energy_is_shown_if_it_was_measured(params: Params) -> None:
    write_report(params)
    assert "Energy" not in read_page().text
    change_record(RELATIONAL.folder, energy_joules={"processors": 7200.0, "gpus": 1_800_000.0})
    write_report(params)
    page = read_page()
    (header,) = [row for row in page.rows if "Views/s" in row]
    (row,) = [row for row in page.rows if row[0] == f"rr made {RELATIONAL.folder}"]
    assert dict(zip(header, row, strict=True))["Energy"] == "2.00 Wh (processors) + 500.00 Wh (GPUs)"
    markdown = read_markdown()
    assert "| 2,048 MiB | 2.00 Wh (processors) + 500.00 Wh (GPUs) |" in markdown
    assert "| Peak memory | Energy | Started (UTC) |" in markdown


def test_plots_use_the_colors_of_the_page(params: Params) -> None:
    write_report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    plots = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) == set()
    assert {"var(--series-1)", "var(--series-2)", "var(--series-3)", "currentColor"} <= set(
        re.findall(r"var\([^)]*\)|currentColor", plots)
    )
    assert "two views of one image" in html


def test_markup_in_class_names_is_escaped(params: Params) -> None:
    names = ["--><script>alert(1)</script>", '"><b onload=x', "$\\frac$ 日本 | `a`"]
    for evaluation in evaluations(params):
        write_predictions(evaluation, pq.read_table(evaluation.predictions), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(params)
    page = read_page()
    assert not page.unclosed
    assert page.elements["script"] == 1  # the page's own
    assert page.elements["b"] == len(CLASSIFICATION) + 1  # explanations of the accuracy table's columns
    assert ["relational", "linear", names[1], "25.00", names[2], "100.00"] in [row[:6] for row in page.rows]
    assert "<script" not in read_markdown()


def test_markup_in_records_and_histories_is_escaped(params: Params) -> None:
    markup = "<script>alert('x')</script> | `a` \n</table>"
    change_record(RELATIONAL.folder, command=markup, device=markup)
    RELATIONAL.history.write_text('epoch,loss,"accuracy_""><script>"\n1,0.5,0.5\n')
    other_seed = paths.PretrainPaths("shapes", "conv4", "relational", 2)
    other_seed.history.write_text(RELATIONAL.history.read_text())
    write_report(params)
    page = read_page()
    assert not page.unclosed
    assert page.elements["script"] == 1  # the page's own
    assert "<script>alert('x')</script>" in page.text
    markdown = read_markdown()
    assert "<script" not in markdown
    assert "\\| \\`a\\`" in markdown
    assert escape_markdown("a|b\nc<d") == "a\\|b c&lt;d"
    assert escape_markdown("my_method _x_ __init__ $5") == r"my_method \_x\_ \_\_init\_\_ \$5"


def test_missing_values_of_a_history_leave_a_gap(params: Params) -> None:
    header = "epoch,loss,accuracy,accuracy_positive,accuracy_negative"
    rows = ("1,1.0,0.5,,0.5", "2,0.9,0.6,0.25,0.5", "3,0.9,0.6,,0.5", "4,0.8,0.7,0.75,0.5")
    for seed in (1, 2):
        history = paths.PretrainPaths("shapes", "conv4", "relational", seed).history
        history.write_text("\n".join((header, *rows)) + "\n")
    write_report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    (data,) = re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)" download="relational-shapes-conv4-accuracy', html)
    table = list(csv.reader(unquote(data).splitlines()))
    column = table[0].index("two views of one image (seed 1)")
    assert [row[column] for row in table[1:]] == ["", "25", "", "75"]
    assert "two views of one image from 25 to 75" in html


def test_parquet_has_one_row_per_metric(params: Params) -> None:
    columns = {"accuracy": [0.1, 0.2], "views": [40, 80], "pairs": [1500, 2500]}
    write_dynamics("relational", 2, columns, [1.0, 1.0])
    write_report(params)
    table = pq.read_table(REPORT_FILES[2])
    names = ["dataset", "backbone", "method", "seed", "target", "protocol", "metric", "value", "views", "pairs"]
    assert table.column_names == names
    costs = {(row["method"], row["seed"], row["views"], row["pairs"]) for row in table.to_pylist()}
    assert {("relational", 2, 80, 2500), ("relational", 1, None, None), ("random", 1, None, None)} <= costs
    assert len(table) == 12 * 6 + 2
    rows = [row for row in table.to_pylist() if row["metric"] == "accuracy"]
    assert {(row["method"], row["protocol"], row["seed"]): row["value"] for row in rows} == {
        (*key, seed): value for key, values in ACCURACY.items() if key[0] != "simclr" for seed, value in values.items()
    }
    assert {(row["dataset"], row["backbone"], row["target"]) for row in rows} == {("shapes", "conv4", "shapes")}


def test_full_page_has_every_section(full_report: tuple[str, str]) -> None:
    html, _ = full_report
    page = ParsedPage(html)
    sections = [
        "background", "views", "accuracies", "classes", "retrieval", "embedding", "curves", "dynamics", "efficiency",
        "runs", "settings",
    ]  # fmt: skip
    assert [name for name in page.ids if name in sections] == sections
    assert [link for link in page.links if link[1:] in sections] == [f"#{name}" for name in sections]
    assert not page.unclosed
    assert len(page.ids) == len(set(page.ids))
    assert page.elements["caption"] == page.elements["table"]
    # Each of the four methods has three images: views, nearest images, and examples of the embedding.
    assert page.elements["img"] == 12
    assert sum("embedding/examples.png" in link for link in page.links) == 4
    assert set(re.findall(r"#0101[0-9a-f]{2}\b", html)) == set()
    assert html.count("aria-label") >= page.elements["svg"] > 20


@pytest.mark.parametrize("kind", ["retrieval", "embedding"])
def test_grid_without_classification_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(protocols=(kind,))
    write_grid_files(params)
    write_report(params)
    page = read_page()
    assert "This grid has no classification protocol" in page.text
    assert kind in page.ids
    assert not {"accuracies", "classes", "dynamics", "efficiency"} & set(page.ids)
    assert "## Accuracies" not in read_markdown()


def test_merged_grids_leave_empty_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The first grid evaluates all methods and seeds with kNN, the second grid one method and seed with other protocols.
    knn_grid = make_params(protocols=("knn",))
    update = {"method": ["relational"], "seed": [1], "protocol": ["linear", "retrieval"]}
    params = knn_grid.model_copy(update={"grid": [knn_grid.grid[0], knn_grid.grid[0].model_copy(update=update)]})
    write_grid_files(params)
    write_report(params)
    page = read_page()
    rows = normalized_rows(page)
    assert ["Method", "knn", "linear"] in rows
    assert ["random lower bound", "30.00 ± 0.00", "–"] in rows
    assert ["relational", "50.00 ± 0.00", "60.00"] in rows
    assert ["relational", "linear", "60.00", "–"] in rows
    assert ["relational", "knn", "50.00", "50.00"] in rows
    assert "1 to 2 seeds" in page.text
    assert not page.unclosed
    markdown = read_markdown()
    assert "| random (lower bound) | 30.00 ± 0.00 | – |" in markdown
    assert "| relational | linear | [60.00](" in markdown
    assert all(line.count("|") == 4 for line in markdown.splitlines() if line.startswith("| random (lower"))


def test_merged_grids_have_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = make_params(methods=("random", "relational"), protocols=tuple(PROTOCOLS))
    second = make_params(seeds=(1,), methods=("simclr",), protocols=("embedding", "knn"))
    params = first.model_copy(update={"grid": [*first.grid, *second.grid]})
    write_grid_files(params)
    columns = {"accuracy": [0.5, 0.6], "knn_accuracy": [0.3, 0.5], "views": [40, 80], "pairs": [1500, 2500]}
    for method, seed in (("relational", 1), ("relational", 2), ("simclr", 1)):
        write_dynamics(method, seed, columns, [1.0, 1.0])
    write_report(params)
    page = read_page()
    assert {"accuracies", "classes", "retrieval", "embedding", "dynamics", "efficiency"} <= set(page.ids)
    assert "seconds of training). Means are over 1 to 2 seeds." in page.text
    rows = normalized_rows(page)
    assert ["simclr", "–", "45.00"] in rows
    assert ["simclr", "−0.250", "4.500", "8.500", "0.500", "−2.000"] in rows
    assert not page.unclosed


def test_finding_skips_a_protocol_without_self_supervised_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bounds = make_params(methods=("random", "supervised"), protocols=("linear",))
    relational = make_params(methods=("relational",), protocols=("knn",))
    params = bounds.model_copy(update={"grid": [*bounds.grid, *relational.grid]})
    write_grid_files(params)
    write_report(params)
    # No bound was evaluated with kNN, so the finding mentions no bound.
    text = read_page().text
    assert "On shapes, relational classifies 50.00 ± 0.00% of the test images correctly (knn). Means" in text
    assert "a gap of 75.00 percentage points" in text


def test_commits_are_listed_and_counted(params: Params) -> None:
    write_report(params)
    assert "Commit of the code: not recorded (24 runs)." in read_page().text
    change_record(RELATIONAL.folder, commit={"id": "0123456789abcdef" * 2, "changed": True})
    change_record(RELATIONAL.folder.with_name("2"), commit=None)
    write_report(params)
    for text in (read_page().text, read_markdown()):
        assert "0123456789ab with uncommitted changes (1 run)" in text
        assert "not recorded (23 runs)" in text
        assert "versions of the code" not in text


def test_other_metrics_of_the_loss_are_plotted(params: Params) -> None:
    assert RESERVED_METRICS - {"loss", "finite"} < OTHER_COLUMNS
    for seed in (1, 2):
        columns = {"accuracy": [0.1, 0.2], "code_entropy": [None, 1.5], "acc/top": [1, 2], "empty": [None, None]}
        columns |= {"views": [1, 2], "pairs": [0, 0]}
        write_dynamics("relational", seed, columns | {"knn_accuracy": [0.3, 0.4]}, [1.0, 1.0])
    write_report(params)
    labels = re.findall(r'aria-label="([^"]*)"', REPORT_FILES[0].read_text(encoding="utf-8"))
    assert "Code entropy by epoch, mean over seeds: code entropy from 1.5 to 1.5." in labels
    assert not [label for label in labels if label.startswith(("Views by epoch", "Pairs", "Knn", "Empty"))]
    assert 'download="relational-shapes-conv4-acc_top' in REPORT_FILES[0].read_text(encoding="utf-8")


def test_results_of_several_code_versions_have_a_warning(params: Params) -> None:
    for run in pretrainings(params):
        change_record(run.folder, code={"rr/pretrain/loop.py": "aa", "rr/data/view_loader.py": "bb"})
    change_record(RELATIONAL.folder, code={"rr/pretrain/loop.py": "cc", "rr/data/view_loader.py": "bb"})
    write_report(params)
    expected = (
        "Pretraining: the runs used 2 versions of the code. This alone may explain differences between results. The "
        "versions differ in rr/pretrain/loop.py. Version A produced shapes/conv4/random/1, shapes/conv4/random/2, "
        "shapes/conv4/supervised/1, shapes/conv4/supervised/2, shapes/conv4/relational/2. Version B produced "
        "shapes/conv4/relational/1."
    )
    page = read_page()
    assert expected in page.text
    assert f"**{expected}**" in read_markdown()
    assert "Evaluation: the runs used" not in page.text
    rows = [row for row in page.rows if f"rr made {RELATIONAL.folder}" in row[0]]
    assert [row[3] for row in rows] == ["B"]


def test_classes_that_some_runs_do_not_use_are_not_other_versions(params: Params) -> None:
    code, own = {"rr/pretrain/loop.py": "aa"}, {"workflow/extensions/mine.py": "bb"}
    for run in pretrainings(params):
        change_record(run.folder, code=code | (own if run.method == "relational" else {}))
    write_report(params)
    assert "versions of the code" not in read_page().text
    change_record(RELATIONAL.folder, code=code | {"workflow/extensions/mine.py": "cc"})
    write_report(params)
    text = read_page().text
    assert "Pretraining: the runs used 2 versions of the code." in text
    assert "The versions differ in workflow/extensions/mine.py." in text
    assert "Version B produced shapes/conv4/relational/2." in text


@pytest.mark.parametrize("axis", ["protocols", "targets"])
def test_grid_without_evaluations_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: str) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(protocols=()) if axis == "protocols" else make_params()
    if axis == "targets":
        grid = params.grid[0].model_copy(update={"target": []})
        params = params.model_copy(update={"grid": [grid]})
    write_grid_files(params)
    write_report(params)
    page, markdown = read_page(), read_markdown()
    for text in (page.text, markdown):
        assert "This grid has no evaluations, so the report shows only the pretraining runs." in text
        assert "Pretraining: 6 runs" in text
        assert "Evaluation:" not in text
    assert "- seed: 1, 2\n" in markdown
    assert "- target" not in markdown
    assert "Accuracies" not in page.text
    assert "Curves" in page.text
    assert pq.read_table(REPORT_FILES[2]).num_rows == 0


def test_page_of_a_large_grid_is_folded_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(methods=tuple(METHODS), datasets=("one", "two", "three"), protocols=tuple(PROTOCOLS))
    write_grid_files(params)
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    for run in evaluations(params):
        Image.fromarray(noise).save(run.examples)
    monkeypatch.setattr("rr.report.sections.classes._MAX_TABLES_WITH_ALL_MATRICES", 2)
    write_report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    page = read_page()
    assert not page.unclosed
    assert len(page.ids) == len(set(page.ids))
    # The nine tables of a section are folded, and so are the views of ten of the twelve methods and datasets.
    headings = re.findall(r'<details class="entry"><summary><h3 id="([\w-]+)">', html)
    assert {f"{section}one-conv4-two" for section in ("", "classes-")} <= set(headings)
    assert "retrieval-one-conv4-two-retrieval" in headings
    assert "embedding-one-conv4-two-embedding" in headings
    assert "Views for 10 more combinations of method and dataset" in html
    assert html.count("<details open") == 1  # the pretraining runs
    # Each image is about 300 kB. The page contains some of them, and links to the others.
    assert len(html) < 2_000_000
    assert "Available only as files: " in html
    links = re.findall(r'href="\.\./(runs/evaluate/[^"]*/examples\.png)"', html)
    first_seed = [run for run in evaluations(params) if run.pretraining.seed == 1]
    assert {str(run.examples) for run in first_seed if run.protocol in ("retrieval", "embedding")} <= set(links)
    assert re.search(r"<img [^>]*alt=\"relational on one, conv4, seed 1\. Each row shows a query", html)
    assert not re.search(r"<img [^>]*alt=\"random on one, conv4, seed 1\. Each row shows a query", html)
    # Only the best self-supervised method of each table has a confusion matrix.
    assert html.count('aria-label="Confusion matrix of relational.') == html.count('aria-label="Confusion matrix') == 9


def test_plots_are_short(params: Params) -> None:
    write_report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    for plot in plots:
        assert len(plot) < 12_000
        assert "DejaVu" not in plot
        assert "rotate(-0" not in plot
        assert not re.search(r"\.\d\d\d", re.sub(r'aria-label="[^"]*"|opacity:[\d.]*', "", plot))
