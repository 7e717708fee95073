"""The report: figures worked out by hand, files that name their damage, and a page that needs nothing but itself."""

import base64
import hashlib
import json
import math
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_files import (
    ACCURACY,
    CLASSIFICATION,
    CONFIDENCE,
    GUESSED,
    LABELS,
    METHODS,
    NAMES,
    PROTOCOLS,
    RELATIONAL,
    Page,
    change_record,
    check_latex,
    make_params,
    write_dynamics,
    write_everything,
    write_files,
    write_predictions,
)
from sklearn.metrics import confusion_matrix

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.paths import REPORT_FILES
from rr.report import report
from rr.report.inputs.predictions import Guesses
from rr.report.latex import _table, escaped
from rr.report.page import markdown
from rr.report.sections.classes import confused, confusion, reliability
from rr.report.sections.efficiency import reached
from rr.report.statistics import spread
from rr.runtime.machine import commit
from rr.workflow.grid import evaluations, pretrainings
from rr.workflow.grid import report as report_cell
from rr.workflow.records import sealed


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    everything = make_params()
    write_files(everything)
    return everything


def page() -> Page:
    return Page(REPORT_FILES[0].read_text(encoding="utf-8"))


def test_spread_by_hand() -> None:
    found = spread([0.60, 0.63])
    assert found.mean == pytest.approx(0.615)
    assert found.deviation == pytest.approx(0.03 / math.sqrt(2))
    assert spread([1.0, 2.0, 3.0, 4.0]).deviation == pytest.approx(math.sqrt(5 / 3))
    assert spread([0.5]).deviation is None


def test_inputs_are_the_files_of_the_grid(params: Params) -> None:
    found = report_cell(params).inputs
    assert len(found) == len(set(found)) == 6 * 3 + 12 * 4
    assert all(path.is_file() for path in found)
    assert Path("runs/history/shapes/conv4/relational/1.csv") in found
    assert Path("runs/evaluate/shapes/conv4/random/2/shapes/knn/metrics.json") in found


def test_page_shows_the_cells_worked_out_by_hand(params: Params) -> None:
    report(params)
    rows = [[" ".join(cell.split()) for cell in row] for row in page().rows]
    assert ["Method", "linear", "knn"] in rows
    assert ["random lower bound", "41.00 ± 1.41", "30.00 ± 0.00"] in rows
    assert ["supervised upper bound", "81.00 ± 1.41", "72.00 ± 2.83"] in rows
    assert ["relational", "61.50 ± 2.12", "50.00 ± 0.00"] in rows
    assert ["relational", "linear", "60.00", "63.00"] in rows
    assert ["views", "–", "1", "4"] in rows
    assert ["processor", "Abacus 9"] in rows
    assert page().text.count("1 min 16 s") >= 18
    assert "Pretraining: 6 runs, 7 min 33 s in all" in page().text


def test_bold_marks_self_supervised_methods_alone(params: Params) -> None:
    report(params)
    html, text = (path.read_text(encoding="utf-8") for path in REPORT_FILES[:2])
    assert re.findall(r"<td[^>]*><strong>([\d.]+)", html) == ["61.50", "50.00"]
    assert "| relational | **61.50 ± 2.12** | **50.00 ± 0.00** |" in text
    assert "| supervised (upper bound) | 81.00 ± 1.41 | 72.00 ± 2.83 |" in text


def test_finding_follows_from_the_figures(params: Params) -> None:
    report(params)
    expected = (
        "On shapes, relational classifies 61.50 ± 2.12 % of the test pictures correctly (linear), above random "
        "(41.00 %) and below supervised (81.00 %): 51 % of the way from the one to the other. Means are over 2 seeds."
    )
    assert expected in page().text
    assert expected in REPORT_FILES[1].read_text(encoding="utf-8")


def test_finding_admits_a_method_below_its_lower_bound(params: Params) -> None:
    for seed in (1, 2):
        run = paths.Pretraining("shapes", "conv4", "relational", seed)
        paths.Evaluation(run, "shapes", "linear").metrics.write_text('{"accuracy": 0.1, "calibration_error": 0}')
    report(params)
    assert "below random (41.00 %) and below supervised (81.00 %). Means" in page().text


def test_one_seed_has_no_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(seeds=(1,))
    write_files(params)
    report(params)
    found = page()
    assert not any("±" in cell for row in found.rows for cell in row)
    assert ["relational", "60.00", "50.00"] in found.rows
    assert "one seed alone" in found.text
    assert "pm" not in REPORT_FILES[3].read_text(encoding="utf-8")
    assert "±" not in REPORT_FILES[1].read_text(encoding="utf-8")


def test_several_tables_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(datasets=("shapes", "others"))
    write_files(params)
    for seed in (1, 2):
        run = paths.Pretraining("others", "conv4", "relational", seed)
        paths.Evaluation(run, "shapes", "knn").metrics.write_text('{"accuracy": 0.9, "calibration_error": 0}')
    report(params)
    found = page()
    assert "in 8 of 8 it is above the random one; in 1 of 8 it reaches the supervised one. Means" in found.text
    assert len(found.ids) == len(set(found.ids))
    assert sum(row == ["Method", "linear", "knn"] for row in found.rows) == 4
    assert "### others, conv4 → shapes" in REPORT_FILES[1].read_text(encoding="utf-8")


def test_bounds_alone_make_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(methods=("random",))
    write_files(params)
    report(params)
    assert "no self-supervised method" in page().text
    assert "curves" not in page().ids


def test_page_needs_nothing_but_itself(params: Params) -> None:
    report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    found = Page(html)
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert not {"iframe", "object", "link:stylesheet"} & set(found.elements)
    # One script, and the policy lets no other run: it names this one's hash.
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{code}'; img-src data:" in html
    for address in found.addresses:
        assert re.match(r"(#|data:|\.\./runs/|results\.parquet$|report\.md$)", address), address
        if address.startswith("#"):
            assert address[1:] in found.ids
        elif not address.startswith("data:"):
            assert (paths.REPORT / address).resolve().is_file(), address
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in found.ids}
    # Two panels for each of two methods that train, one for each of two protocols, two for each method's classes; a
    # sheet of views for each method.
    assert found.elements["svg"] == 12
    assert found.elements["img"] == 3
    assert found.elements["caption"] == found.elements["table"]


def test_energy_is_shown_where_it_was_counted(params: Params) -> None:
    report(params)
    assert "Energy" not in page().text
    change_record(RELATIONAL.folder, energy_joules={"processors": 7200.0, "gpus": 1_800_000.0})
    report(params)
    (header,) = [row for row in page().rows if "Views/s" in row]
    (row,) = [row for row in page().rows if row[0] == f"rr made {RELATIONAL.folder}"]
    assert dict(zip(header, row, strict=True))["Energy"] == "2.00 Wh (processors) + 500.00 Wh (GPUs)"
    text = REPORT_FILES[1].read_text(encoding="utf-8")
    assert "| 2,048 MiB | 2.00 Wh (processors) + 500.00 Wh (GPUs) |" in text
    assert "| Peak memory | Energy | Started (UTC) |" in text


def test_curves_take_the_colours_of_the_page(params: Params) -> None:
    report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()
    assert {"var(--series-1)", "var(--series-2)", "var(--series-3)", "currentColor"} <= set(
        re.findall(r"var\([^)]*\)|currentColor", drawn)
    )
    assert "two views of one picture" in html


def test_hostile_names_of_classes_stay_text(params: Params) -> None:
    names = ["--><script>alert(1)</script>", '"><b onload=x', "$\\frac$ 日本 | `a`"]
    for score in evaluations(params):
        write_predictions(score, pq.read_table(score.predictions), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(params)
    found = page()
    assert not found.open
    assert found.elements["script"] == 1  # the page's own
    assert found.elements["b"] == len(CLASSIFICATION)
    assert ["relational", "linear", names[1], "25.00", names[2], "100.00"] in [row[:6] for row in found.rows]
    assert "<script" not in REPORT_FILES[1].read_text(encoding="utf-8")


def test_hostile_text_stays_text(params: Params) -> None:
    hostile = "<script>alert('x')</script> | `a` \n</table>"
    change_record(RELATIONAL.folder, command=hostile, device=hostile)
    RELATIONAL.history.write_text('epoch,loss,"accuracy_""><script>"\n1,0.5,0.5\n')
    other = paths.Pretraining("shapes", "conv4", "relational", 2)
    other.history.write_text(RELATIONAL.history.read_text())
    report(params)
    found = page()
    assert not found.open
    assert found.elements["script"] == 1  # the page's own
    assert "<script>alert('x')</script>" in found.text
    text = REPORT_FILES[1].read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\\| \\`a\\`" in text
    assert markdown("a|b\nc<d") == "a\\|b c&lt;d"


@pytest.mark.parametrize("place", range(5))
def test_missing_file_is_named(params: Params, place: int) -> None:
    score = paths.Evaluation(RELATIONAL, "shapes", "knn")
    records = [paths.run_record(run.folder) for run in (RELATIONAL, score)]
    path = [RELATIONAL.history, RELATIONAL.views, score.metrics, *records][place]
    path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))):
        report(params)
    assert not paths.REPORT.exists()


@pytest.mark.parametrize(
    "content",
    [
        '{"accuracy": NaN}',
        '{"accuracy": 1.5}',
        '{"accuracy": "0.5"}',
        '{"accuracy": true}',
        '{"loss": 0.5}',
        "[0.5]",
        '{"acc',
        "",
    ],
)
def test_damaged_metrics_are_named(params: Params, content: str) -> None:
    path = paths.Evaluation(RELATIONAL, "shapes", "linear").metrics
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        report(params)


@pytest.mark.parametrize(
    "content", ["", "epoch,accuracy\n1,0.5\n", "epoch,loss\n1,high\n", "epoch,loss\n1\n", "epoch,loss\n1,nan\n"]
)
def test_damaged_history_is_named(params: Params, content: str) -> None:
    RELATIONAL.history.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(RELATIONAL.history))):
        report(params)


def test_damaged_picture_and_records_are_named(params: Params) -> None:
    record = paths.run_record(RELATIONAL.folder)
    kept = record.read_text()
    wrong = kept.replace('"seconds": 75.5', '"seconds": "long"'), kept.replace('"kind"', '"sort"')
    for content in ("{", "[]", "{}", kept.replace("75.5", "75.6"), *(json.dumps(sealed(json.loads(w))) for w in wrong)):
        record.write_text(content)
        with pytest.raises(UserError, match=re.escape(str(record))):
            report(params)
    record.write_text(kept)
    RELATIONAL.views.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="no PNG"):
        report(params)


def test_runs_with_different_settings_have_no_mean(params: Params) -> None:
    other = {"methods.relational": METHODS["relational"] | {"views": 16}, "threads": 1}
    change_record(RELATIONAL.folder, params=other)
    with pytest.raises(UserError, match=r"methods\.relational differs"):
        report(params)


def test_values_that_are_absent_leave_a_gap(params: Params) -> None:
    RELATIONAL.history.write_text(
        "epoch,loss,accuracy,accuracy_positive,accuracy_negative\n1,1.0,0.5,nan,0.5\n2,0.9,0.6,0.6,0.6\n"
    )
    report(params)
    assert page().elements["svg"] == 12


def test_results_hold_one_row_per_metric(params: Params) -> None:
    report(params)
    table = pq.read_table(REPORT_FILES[2])
    assert table.column_names == ["dataset", "backbone", "method", "seed", "target", "protocol", "metric", "value"]
    assert len(table) == 12 * 6
    rows = [row for row in table.to_pylist() if row["metric"] == "accuracy"]
    assert {(row["method"], row["protocol"], row["seed"]): row["value"] for row in rows} == {
        (*key, seed): value for key, values in ACCURACY.items() if key[0] != "simclr" for seed, value in values.items()
    }
    assert {(row["dataset"], row["backbone"], row["target"]) for row in rows} == {("shapes", "conv4", "shapes")}


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    return write_everything()


def test_a_whole_page_has_every_section(whole: tuple[str, str]) -> None:
    html, _ = whole
    found = Page(html)
    sections = [
        "accuracies", "classes", "retrieval", "embedding", "curves", "dynamics", "efficiency", "views", "runs",
        "settings",
    ]  # fmt: skip
    assert [name for name in found.ids if name in sections] == sections
    assert [address for address in found.addresses if address[1:] in sections] == [f"#{name}" for name in sections]
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert found.elements["caption"] == found.elements["table"]
    # Views and the nearest pictures of four methods; the map with its pictures is a link.
    assert found.elements["img"] == 8
    assert sum("embedding/examples.png" in address for address in found.addresses) == 4
    assert set(re.findall(r"#0101[0-9a-f]{2}\b", html)) == set()
    assert html.count("aria-label") >= found.elements["svg"] > 20


def test_worst_and_best_class_by_hand(params: Params) -> None:
    report(params)
    rows = page().rows
    # cat: 3 of 4; dog: 1 of 4; the last: 2 of 2. The calibration errors of the seeds are 0.1 and 0.2.
    expected = ["dog", "25.00", "$a$ & <b>", "100.00", "75.00", "15.00 ± 7.07", "pictures"]
    for method in ("random", "supervised", "relational"):
        for protocol in CLASSIFICATION:
            assert [method, protocol, *expected] in rows
    assert ["cat", "75.00", "75.00", "75.00"] in rows
    sentence = (
        "A good mean does not guarantee unbiased predictions: relational (linear) classifies 61.50 % of the test "
        "pictures of shapes correctly, but 100.00 % of $a$ & <b> and 25.00 % of dog, 75.00 percentage points apart. "
        "Means are over 2 seeds."
    )
    assert sentence in page().text
    text = REPORT_FILES[1].read_text(encoding="utf-8")
    assert markdown(sentence) in text
    assert "| relational | linear | dog | 25.00 | $a$ &amp; &lt;b&gt; | 100.00 | 75.00 | 15.00 ± 7.07 |" in text


def guessed() -> Guesses:
    return Guesses(NAMES, np.array(LABELS), np.array(GUESSED), np.array(CONFIDENCE))


def test_confusions_by_hand() -> None:
    assert confusion(guessed()).tolist() == [[0.75, 0.25, 0], [0.5, 0.25, 0.25], [0, 0, 1]]
    assert confused(guessed()) == ["dog as cat: 50.00", "cat as dog: 25.00", "dog as $a$ & <b>: 25.00"]
    absent = Guesses([*NAMES, "bird"], np.array(LABELS), np.array(GUESSED), np.array(CONFIDENCE))
    assert np.isnan(confusion(absent)[3]).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_confusions_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(side) for side in zip(*pairs, strict=True))
    found = confusion(Guesses(list("abcde"), labels, predictions, np.ones(len(labels))))
    expected = confusion_matrix(
        labels, predictions, labels=range(5), normalize="true"
    )  # 0 for a class without pictures
    np.testing.assert_allclose(np.nan_to_num(found), expected)


def test_bins_of_confidence_by_hand() -> None:
    # (0, 1/15] holds 0; (7/15, 8/15] 0.5; (8/15, 9/15] 0.55; (13/15, 14/15] 0.9; (14/15, 1] 0.97, 0.99 and 1.
    expected = [(0, 1), (0.5, 0.5), (0.55, 0.5), (0.9, 0), ((0.97 + 0.99 + 1) / 3, 1)]
    assert reliability(guessed()) == [pytest.approx(point) for point in expected]


def test_a_class_without_a_test_picture_is_neither_worst_nor_best(params: Params) -> None:
    for score in evaluations(params):
        write_predictions(score, pq.read_table(score.predictions), [*NAMES, "bird"])
    report(params)
    assert ["bird", "–", "–", "–"] in page().rows
    assert "25.00 % of dog" in page().text


def test_many_classes_have_pairs_instead_of_a_picture(params: Params) -> None:
    for score in evaluations(params):
        write_predictions(score, pq.read_table(score.predictions), [*NAMES, *(f"more {i}" for i in range(18))])
    report(params)
    assert ["relational", "dog as cat: 50.00; cat as dog: 25.00; dog as $a$ & <b>: 25.00"] in page().rows
    assert page().elements["svg"] == 12 - 3
    assert "- relational: dog as cat: 50.00; cat" in REPORT_FILES[1].read_text(encoding="utf-8")


def test_retrieval_and_embedding_have_tables_of_their_own(whole: tuple[str, str]) -> None:
    html, text = whole
    rows = [[" ".join(cell.split()) for cell in row] for row in Page(html).rows]
    at = [f"{name} at {k}" for name in ("precision", "recall", "hit rate") for k in (1, 5)]
    assert ["Method", "linear", "knn"] in rows
    assert ["Method", "mAP", *at] in rows
    shares = ["10.00 ± 0.00", "50.00 ± 0.00"] * 3
    assert ["relational", "51.50 ± 0.71", *shares] in rows
    assert ["supervised upper bound", "61.50 ± 0.71", *shares] in rows
    assert ["Method", "silhouette", "alignment", "uniformity", "effective rank"] in rows
    assert ["relational", "−0.250 ± 0.000", "0.500 ± 0.000", "−2.000 ± 0.000", "9.000 ± 0.707"] in rows
    assert "51.50" in re.findall(r"<td[^>]*><strong>([\d.−]+)", html)
    assert not {"61.50", "9.000"} & set(re.findall(r"<td[^>]*><strong>([\d.−]+)", html)[2:])
    assert "| relational | **51.50 ± 0.71** | **10.00 ± 0.00** |" in text
    assert "| relational | −0.250 ± 0.000 | 0.500 ± 0.000 | −2.000 ± 0.000 | 9.000 ± 0.707 |" in text


@pytest.mark.parametrize("kind", ["retrieval", "embedding"])
def test_a_grid_without_classification_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(protocols=(kind,))
    write_files(params)
    report(params)
    assert "This grid holds no classification" in page().text
    assert kind in page().ids
    assert not {"accuracies", "classes", "dynamics", "efficiency"} & set(page().ids)
    assert "## Accuracies" not in REPORT_FILES[1].read_text(encoding="utf-8")


def test_efficiency_by_hand(whole: tuple[str, str]) -> None:
    html, text = whole
    # Relational is measured at 1000 and 3000 pairs (35 and 75 %), SimCLR at 1500 and 2500 (30 and 50 %): at 2500 that
    # is 35 + 40 × 3/4 = 65 and 50. In time at 10 and 32 s, and at 16 and 40 s: at 32 s 75, and 30 + 20 × 16/24 = 43.33.
    expected = (
        "At the most that both have spent: at 2,500 pairs relational has a kNN accuracy of 65.00 % and simclr of "
        "50.00 %; after 32.0 seconds of training relational has a kNN accuracy of 75.00 % and simclr of 43.33 %, read "
        "off linearly between epochs. Means are over 2 seeds."
    )
    assert expected in Page(html).text
    assert expected in text


def test_reached_is_linear_and_never_guessed_beyond_the_points() -> None:
    points = [(10.0, 20.0), (20.0, 40.0)]
    assert reached(points, 15) == 30
    assert reached(points, 20) == 40
    assert reached(points, 9.9) is None
    assert reached(points, 20.1) is None


def test_efficiency_without_one_of_the_two_says_nothing(everything: Params) -> None:
    for seed in (1, 2):
        write_dynamics("simclr", seed, {"accuracy": [0.1], "knn_accuracy": [0.3], "views": [9], "pairs": [0]}, [1.0])
    report(everything)
    assert "efficiency" in page().ids
    assert "read off linearly" not in page().text


def test_seconds_of_two_machines_are_not_compared(everything: Params) -> None:
    change_record(RELATIONAL.folder, device="NVIDIA H100")
    report(everything)
    assert "at 2,500 pairs relational has a kNN accuracy of 65.00 % and simclr of 50.00 %, read off" in page().text


def test_records_without_times_of_epochs_leave_seconds_out(everything: Params) -> None:
    for seed in (1, 2):
        for method in ("relational", "simclr"):
            change_record(paths.Pretraining("shapes", "conv4", method, seed).folder, epoch_seconds=[])
    report(everything)
    assert "Against pairs compared" in page().text
    assert "Against seconds of training" not in page().text
    assert "at 2,500 pairs relational has a kNN accuracy of 65.00 % and simclr of 50.00 %, read" in page().text


def test_dynamics_show_what_was_measured(whole: tuple[str, str]) -> None:
    html, _ = whole
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert (
        "Accuracy in percent per epoch, mean over seeds: kNN on frozen features from 35 to 75, pairs told apart from "
        "50 to 70." in labels
    )
    assert "Information in bits per epoch, mean over seeds: information from -0.1 to 0.3." in labels
    assert "Norm of the gradient per epoch, mean over seeds: backbone from 1 to 0.1, head from 0.2 to 0.2." in labels
    assert "What the relational module does to the representation" in html
    assert "Effective rank per epoch, mean over seeds: effective rank from 3 to 5." in labels


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["confidence"]),
        lambda table: table.set_column(3, "confidence", pa.array([1.5] * 10)),
        lambda table: table.set_column(3, "confidence", pa.array([math.nan] * 10)),
        lambda table: table.set_column(3, "confidence", pa.array([None] * 10, pa.float64())),
        lambda table: table.set_column(2, "prediction", pa.array([3] * 10)),
        lambda table: table.set_column(1, "label", pa.array([-1] * 10)),
        lambda table: table.set_column(1, "label", pa.array(["cat"] * 10)),
        lambda table: table.slice(0, 0),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.replace_schema_metadata({"class_names": "{}"}),
        lambda table: table.replace_schema_metadata({"class_names": "["}),
        None,
    ],
)
def test_damaged_predictions_are_named(params: Params, change: Any) -> None:
    path = paths.Evaluation(RELATIONAL, "shapes", "knn").predictions
    if change:
        pq.write_table(change(pq.read_table(path)), path)
    else:
        path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=re.escape(str(path))):
        report(params)


def test_damaged_map_and_metrics_of_other_kinds_are_named(everything: Params) -> None:
    score = paths.Evaluation(RELATIONAL, "shapes", "embedding")
    kept = score.predictions.read_bytes()
    table = pq.read_table(score.predictions)
    pq.write_table(table.set_column(2, "x", pa.array([math.nan] * 10, pa.float32())), score.predictions)
    with pytest.raises(UserError, match=re.escape(str(score.predictions))):
        report(everything)
    score.predictions.write_bytes(kept)
    for protocol, key in (("embedding", "silhouette"), ("retrieval", "hit_rate_at_5"), ("linear", "calibration_error")):
        path = paths.Evaluation(RELATIONAL, "shapes", protocol).metrics
        text = path.read_text()
        for content in ({k: v for k, v in json.loads(text).items() if k != key}, json.loads(text) | {key: -1.5}):
            path.write_text(json.dumps(content))
            with pytest.raises(UserError, match=f"{re.escape(str(path))} is damaged .no {key} between"):
                report(everything)
        path.write_text(text)


def test_classes_of_a_target_are_the_same_everywhere(params: Params) -> None:
    score = paths.Evaluation(RELATIONAL, "shapes", "knn")
    write_predictions(score, pq.read_table(score.predictions), ["dog", "cat", "bird"])
    with pytest.raises(UserError, match=re.escape(f"{score.predictions}: its classes differ")):
        report(params)


def ragged() -> Params:
    """Two grids joined: kNN for all methods with both seeds, and a linear layer for relational, seed 1, alone."""
    first = make_params(protocols=("knn",))
    alone = {"method": ["relational"], "seed": [1], "protocol": ["linear", "retrieval"]}
    return first.model_copy(update={"grid": [first.grid[0], first.grid[0].model_copy(update=alone)]})


def test_joined_grids_leave_empty_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = ragged()
    write_files(params)
    report(params)
    found = page()
    rows = [[" ".join(cell.split()) for cell in row] for row in found.rows]
    assert ["Method", "knn", "linear"] in rows
    assert ["random lower bound", "30.00 ± 0.00", "–"] in rows
    assert ["relational", "50.00 ± 0.00", "60.00"] in rows
    assert ["relational", "linear", "60.00", "–"] in rows
    assert ["relational", "knn", "50.00", "50.00"] in rows
    assert "1 to 2 seeds" in found.text
    assert not found.open
    text = REPORT_FILES[1].read_text(encoding="utf-8")
    assert "| random (lower bound) | 30.00 ± 0.00 | – |" in text
    assert "| relational | linear | [60.00](" in text
    assert all(line.count("|") == 4 for line in text.splitlines() if line.startswith("| random (lower"))


def test_joined_grids_have_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = make_params(methods=("random", "relational"), protocols=tuple(PROTOCOLS))
    theirs = make_params(seeds=(1,), methods=("simclr",), protocols=("embedding", "knn"))
    params = ours.model_copy(update={"grid": [*ours.grid, *theirs.grid]})
    write_files(params)
    measured = {"accuracy": [0.5, 0.6], "knn_accuracy": [0.3, 0.5], "views": [40, 80], "pairs": [1500, 2500]}
    for method, seed in (("relational", 1), ("relational", 2), ("simclr", 1)):
        write_dynamics(method, seed, measured, [1.0, 1.0])
    report(params)
    found = page()
    assert {"accuracies", "classes", "retrieval", "embedding", "dynamics", "efficiency"} <= set(found.ids)
    assert "read off linearly between epochs. Means are over 1 to 2 seeds." in found.text
    rows = [[" ".join(cell.split()) for cell in row] for row in found.rows]
    assert ["simclr", "–", "45.00"] in rows
    assert ["simclr", "−0.250", "0.500", "−2.000", "8.500"] in rows
    assert not found.open


def test_a_first_protocol_without_a_self_supervised_method_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bounds = make_params(methods=("random", "supervised"), protocols=("linear",))
    ours = make_params(methods=("relational",), protocols=("knn",))
    params = bounds.model_copy(update={"grid": [*bounds.grid, *ours.grid]})
    write_files(params)
    report(params)
    # No bound was measured by kNN, so none is named.
    assert "On shapes, relational classifies 50.00 ± 0.00 % of the test pictures correctly (knn). Means" in page().text
    assert "75.00 percentage points apart" in page().text


def test_commits_are_named_and_counted(params: Params) -> None:
    report(params)
    assert "Commit of the code: not recorded (18 runs)." in page().text
    change_record(RELATIONAL.folder, commit={"id": "0123456789abcdef" * 2, "changed": True})
    change_record(RELATIONAL.folder.with_name("2"), commit=None)
    report(params)
    for text in (page().text, REPORT_FILES[1].read_text(encoding="utf-8")):
        assert "0123456789ab, with changes that are in no commit (1 run)" in text
        assert "not recorded (17 runs)" in text
        assert "versions of the code" not in text


def test_figures_of_two_versions_of_the_code_are_flagged(params: Params) -> None:
    for run in pretrainings(params):
        change_record(run.folder, code={"rr/pretrain/loop.py": "aa", "rr/data/loader.py": "bb"})
    change_record(RELATIONAL.folder, code={"rr/pretrain/loop.py": "cc", "rr/data/loader.py": "bb"})
    report(params)
    expected = (
        "Pretraining mixes 2 versions of the code, so figures may differ for that reason alone. What differs: "
        "rr/pretrain/loop.py. A made shapes/conv4/random/1, shapes/conv4/random/2, shapes/conv4/supervised/1, "
        "shapes/conv4/supervised/2, shapes/conv4/relational/2; B made shapes/conv4/relational/1."
    )
    assert expected in page().text
    assert f"**{expected}**" in REPORT_FILES[1].read_text(encoding="utf-8")
    assert "Evaluation mixes" not in page().text
    lines = [row for row in page().rows if f"rr made {RELATIONAL.folder}" in row[0]]
    assert [row[3] for row in lines] == ["B"]


def test_latex_is_balanced_and_escaped(params: Params) -> None:
    report(params)
    text = REPORT_FILES[3].read_text(encoding="utf-8")
    assert r"relational & \textbf{61.50 $\pm$ 2.12} & \textbf{50.00 $\pm$ 0.00} \\" in text
    assert r"random (lower bound) & 41.00 $\pm$ 1.41 & 30.00 $\pm$ 0.00 \\" in text
    check_latex(text)
    assert escaped(r"a_b & 5 % of {x} \ ~ ^ $ #") == (
        r"a\_b \& 5 \% of \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$ \#"
    )


def test_wide_latex_is_cut_into_tables_that_fit() -> None:
    titles = ["Method", *(f"ResNet-32: set-{place}" for place in range(9))]
    rows = [[f"m{row}", *(rf"{row}{place}.00 $\pm$ 0.10 (3)" for place in range(9))] for row in range(3)]
    text = _table("Nine figures.", "nine", titles, rows)
    check_latex(text)
    assert re.findall(r"label\{(.*?)\}", text) == ["tab:nine", "tab:nine-2", "tab:nine-3"]
    lines = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.startswith("m1 ")]
    assert [line[0] for line in lines] == ["m1"] * 3
    assert [cell for line in lines for cell in line[1:]] == rows[1][1:]
    assert text.count(r"\shortstack[r]{ResNet-32:\\set-") == 9


def git(*words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def test_the_commit_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    git("init", "-q")
    assert commit() is None, "a checkout without a commit"
    for name in ("params.yaml", "notes"):
        Path(name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    Path("notes").write_text("2")
    Path("dvc.lock").write_text("untracked")
    assert commit() == {"id": head, "changed": False}, "what determines no result is no change"
    Path("params.yaml").write_text("2")
    assert commit() == {"id": head, "changed": True}
    git("add", ".")
    assert commit() == {"id": head, "changed": True}
    monkeypatch.setenv("PATH", "")
    assert commit() is None
