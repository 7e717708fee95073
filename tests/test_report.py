"""The report: figures worked out by hand, files that name their damage, and a page that needs nothing but itself."""

import csv
import io
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rr import paths
from rr.errors import UserError
from rr.grid import evaluations, pretrainings
from rr.grid import report as report_cell
from rr.params import Params
from rr.paths import REPORT_FILES
from rr.report import report
from rr.report.collect import spread
from rr.report.page import markdown

ACCURACY = {
    ("random", "linear"): {1: 0.40, 2: 0.42},
    ("random", "knn"): {1: 0.30, 2: 0.30},
    ("supervised", "linear"): {1: 0.80, 2: 0.82},
    ("supervised", "knn"): {1: 0.70, 2: 0.74},
    ("relational", "linear"): {1: 0.60, 2: 0.63},
    ("relational", "knn"): {1: 0.50, 2: 0.50},
}
METHODS: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "supervised": {
        "kind": "supervised", "augmentation": {"flip": 0.5}, "views": 1, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.1, "momentum": 0.9, "milestones": [0.5], "decay": 0.1,
    },
    "relational": {
        "kind": "relational", "augmentation": {"flip": 0.5}, "views": 4, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0,
        "alpha": 0.5, "negatives": "roll", "labelled": 0.0,
    },
}  # fmt: skip
PROTOCOLS = {
    "linear": {"kind": "linear", "epochs": 1, "batch_size": 8, "learning_rate": 0.001},
    "knn": {"kind": "knn", "neighbours": 2, "temperature": 0.1},
}
RELATIONAL = paths.Pretraining("shapes", "conv4", "relational", 1)


def make_params(
    seeds: tuple[int, ...] = (1, 2),
    methods: tuple[str, ...] = ("random", "supervised", "relational"),
    datasets: tuple[str, ...] = ("shapes",),
) -> Params:
    data = {
        "source": {"kind": "shapes", "train": 20, "test": 10, "seed": 0},
        "side": 8,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    content = {
        "grid": {
            "data": list(datasets), "dataset": list(datasets), "backbone": ["conv4"], "method": list(methods),
            "seed": list(seeds), "target": list(datasets), "protocol": list(PROTOCOLS),
        },
        "threads": 1, "precision": "float32",
        "datasets": dict.fromkeys(datasets, data),
        "methods": METHODS,
        "protocols": PROTOCOLS,
    }  # fmt: skip
    return Params.model_validate_json(json.dumps(content))


def write_files(params: Params) -> None:
    """Everything that the stages of `params` would have left for the report."""
    for run in pretrainings(params):
        run.folder.mkdir(parents=True)
        run.history.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "random": ["epoch", "loss", "accuracy"],
            "supervised": ["epoch", "loss", "accuracy"],
            "relational": ["epoch", "loss", "accuracy", "accuracy_positive", "accuracy_negative"],
        }[run.method]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for epoch in (1, 2) if run.method != "random" else ():
            writer.writerow([epoch, 1 / epoch + run.seed / 10, *(0.4 + epoch / 10 for _ in columns[2:])])
        run.history.write_text(text.getvalue())
        Image.fromarray(np.full((12, 20, 3), run.seed, np.uint8)).save(run.views)
        write_record(run.folder, {f"methods.{run.method}": METHODS[run.method], "threads": 1}, views_per_second=1234)
    for score in evaluations(params):
        score.folder.mkdir(parents=True)
        value = ACCURACY[score.pretraining.method, score.protocol][score.pretraining.seed]
        score.metrics.write_text(json.dumps({"accuracy": value, "loss": 0.5, "test_images": 1000, "classes": 10}))
        write_record(score.folder, {f"protocols.{score.protocol}": PROTOCOLS[score.protocol], "threads": 1})


def write_record(folder: Path, params: dict[str, Any], **more: Any) -> None:
    machine = {"processor": "Abacus 9", "cores": 2, "system": "Linux", "python": "3.11", "versions": {"torch": "2.11"}}
    record = {
        "stage": "any", "command": f"rr made {folder}", "params": params, "inputs": {}, "code": {}, "outputs": {},
        "started": "2026-01-02T03:04:05Z", "seconds": 75.5, "peak_memory_mib": 2048, "machine": machine,
        "device": "cpu (2 cores)", **more,
    }  # fmt: skip
    paths.run_record(folder).write_text(json.dumps(record))


def change_record(folder: Path, **changes: Any) -> None:
    path = paths.run_record(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    everything = make_params()
    write_files(everything)
    return everything


class Page(HTMLParser):
    """Ids, addresses, cells and open elements of a page."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.elements: Counter[str] = Counter()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "xlink:href", "data", "action", "poster"):
                self.addresses.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


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
    assert len(found) == len(set(found)) == 6 * 3 + 12 * 2
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
        paths.Evaluation(run, "shapes", "linear").metrics.write_text('{"accuracy": 0.1}')
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
    assert "±" not in REPORT_FILES[1].read_text(encoding="utf-8")


def test_several_tables_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(datasets=("shapes", "others"))
    write_files(params)
    for seed in (1, 2):
        run = paths.Pretraining("others", "conv4", "relational", seed)
        paths.Evaluation(run, "shapes", "knn").metrics.write_text('{"accuracy": 0.9}')
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
    assert "there is no curve" in page().text


def test_page_needs_nothing_but_itself(params: Params) -> None:
    report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    found = Page(html)
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert not {"script", "iframe", "object", "link:stylesheet"} & set(found.elements)
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
    # Two panels for each of two methods that train, one for each of two protocols; a sheet of views for each method.
    assert found.elements["svg"] == 6
    assert found.elements["img"] == 3
    assert found.elements["caption"] == found.elements["table"]


def test_curves_take_the_colours_of_the_page(params: Params) -> None:
    report(params)
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()
    assert {"var(--series-1)", "var(--series-2)", "var(--series-3)", "currentColor"} <= set(
        re.findall(r"var\([^)]*\)|currentColor", drawn)
    )
    assert "two views of one picture" in html


def test_hostile_text_stays_text(params: Params) -> None:
    hostile = "<script>alert('x')</script> | `a` \n</table>"
    change_record(RELATIONAL.folder, command=hostile, device=hostile)
    RELATIONAL.history.write_text('epoch,loss,"accuracy_""><script>"\n1,0.5,0.5\n')
    other = paths.Pretraining("shapes", "conv4", "relational", 2)
    other.history.write_text(RELATIONAL.history.read_text())
    report(params)
    found = page()
    assert not found.open
    assert found.elements["script"] == 0
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
    for content in ("{", "[]", "{}", *wrong):
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
    assert page().elements["svg"] == 6


def test_results_hold_one_row_per_metric(params: Params) -> None:
    report(params)
    table = pq.read_table(REPORT_FILES[2])
    assert table.column_names == ["dataset", "backbone", "method", "seed", "target", "protocol", "metric", "value"]
    assert len(table) == 12 * 4
    rows = [row for row in table.to_pylist() if row["metric"] == "accuracy"]
    assert {(row["method"], row["protocol"], row["seed"]): row["value"] for row in rows} == {
        (*key, seed): value for key, values in ACCURACY.items() for seed, value in values.items()
    }
    assert {(row["dataset"], row["backbone"], row["target"]) for row in rows} == {("shapes", "conv4", "shapes")}


def test_equal_files_give_equal_bytes(params: Params) -> None:
    report(params)
    first = [path.read_bytes() for path in REPORT_FILES]
    report(params)
    assert [path.read_bytes() for path in REPORT_FILES] == first
