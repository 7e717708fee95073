"""Test that a missing, damaged or inconsistent file raises an error that names the file."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_files import METHODS, RELATIONAL, change_record, write_predictions

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.report.stage import write_report
from rr.workflow.records import with_digest
from rr.workflow.stage_runs import make_report_run


def test_report_run_inputs_are_all_files_of_the_grid(params: Params) -> None:
    inputs = make_report_run(params).inputs
    assert len(inputs) == len(set(inputs)) == 6 * 3 + 6 + 12 * 4
    assert all(path.is_file() for path in inputs)
    assert Path("runs/history/shapes/conv4/relational/1.csv") in inputs
    assert Path("runs/evaluate/shapes/conv4/random/2/shapes/knn/metrics.json") in inputs


@pytest.mark.parametrize("index", range(5))
def test_missing_file_raises(params: Params, index: int) -> None:
    evaluation = paths.EvaluationPaths(RELATIONAL, "shapes", "knn")
    records = [paths.record_file(run.folder) for run in (RELATIONAL, evaluation)]
    path = [RELATIONAL.history, RELATIONAL.views, evaluation.metrics, *records][index]
    path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))):
        write_report(params)
    assert not paths.REPORT_DIR.exists()


def test_missing_history_names_the_stage(params: Params) -> None:
    RELATIONAL.history.unlink()
    with pytest.raises(UserError, match=r"1\.csv is missing: run rr pretrain first"):
        write_report(params)


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
def test_damaged_metrics_raise(params: Params, content: str) -> None:
    path = paths.EvaluationPaths(RELATIONAL, "shapes", "linear").metrics
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        write_report(params)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a CSV table with the columns epoch and loss"),
        ("epoch,accuracy\n1,0.5\n", "not a CSV table with the columns epoch and loss"),
        ("epoch,loss\n1,high\n", "could not convert string to float: 'high'"),
        ("epoch,loss\n1\n", "not a CSV table with the columns epoch and loss"),
        ("epoch,loss\n1,0.5\n2,nan\n", "row 2: the epoch or the loss is not a finite number"),
        ("epoch,loss\n,0.5\n", "row 1: the epoch or the loss is not a finite number"),
    ],
)
def test_damaged_history_raises(params: Params, content: str, reason: str) -> None:
    RELATIONAL.history.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{RELATIONAL.history} is damaged ({reason}): delete")):
        write_report(params)


def test_damaged_image_and_damaged_records_raise(params: Params) -> None:
    path = paths.record_file(RELATIONAL.folder)
    original = path.read_text()
    wrong_fields = original.replace('"seconds": 75.5', '"seconds": "long"'), original.replace('"kind"', '"sort"')
    resealed = [json.dumps(with_digest(json.loads(text))) for text in wrong_fields]
    for content in ("{", "[]", "{}", original.replace("75.5", "75.6"), *resealed):
        path.write_text(content)
        with pytest.raises(UserError, match=re.escape(str(path))):
            write_report(params)
    path.write_text(original)
    RELATIONAL.views.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="not a PNG"):
        write_report(params)


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
def test_damaged_predictions_raise(params: Params, change: Any) -> None:
    path = paths.EvaluationPaths(RELATIONAL, "shapes", "knn").predictions
    if change:
        pq.write_table(change(pq.read_table(path)), path)
    else:
        path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=re.escape(str(path))):
        write_report(params)


def test_damaged_map_and_invalid_metrics_raise(full_grid: Params) -> None:
    evaluation = paths.EvaluationPaths(RELATIONAL, "shapes", "embedding")
    table = pq.read_table(evaluation.predictions)
    original = evaluation.predictions.read_bytes()
    pq.write_table(
        table.set_column(table.column_names.index("neighbors"), "neighbors", pa.array([[10]] * 10)),
        evaluation.predictions,
    )
    with pytest.raises(UserError, match="a neighbor is not an image in the table"):
        write_report(full_grid)
    pq.write_table(table.set_column(2, "x", pa.array([math.nan] * 10, pa.float32())), evaluation.predictions)
    with pytest.raises(UserError, match=re.escape(str(evaluation.predictions))):
        write_report(full_grid)
    clusters = pa.array([0] * 9 + [10], pa.int64())
    position = table.column_names.index("cluster")
    pq.write_table(table.set_column(position, "cluster", clusters), evaluation.predictions)
    with pytest.raises(UserError, match="a cluster is not between 0 and 9"):
        write_report(full_grid)
    evaluation.predictions.write_bytes(original)
    for protocol, key in (("embedding", "uniformity"), ("retrieval", "hit_rate_at_5"), ("linear", "calibration_error")):
        path = paths.EvaluationPaths(RELATIONAL, "shapes", protocol).metrics
        text = path.read_text()
        metrics = json.loads(text)
        without_key = {name: value for name, value in metrics.items() if name != key}
        for content, reason in (
            (without_key, f"the metric {key} is missing"),
            (metrics | {key: -8.5}, f"{key} is -8.5, but must be between"),
        ):
            path.write_text(json.dumps(content))
            with pytest.raises(UserError, match=re.escape(f"{path} is damaged ({reason}")):
                write_report(full_grid)
        path.write_text(text)


def test_different_settings_of_seeds_raise(params: Params) -> None:
    changed = {"methods.relational": METHODS["relational"] | {"views": 16}, "threads": 1}
    change_record(RELATIONAL.folder, params=changed)
    with pytest.raises(UserError, match=r"the setting methods\.relational is not the same as in"):
        write_report(params)


def test_different_classes_of_one_target_raise(params: Params) -> None:
    evaluation = paths.EvaluationPaths(RELATIONAL, "shapes", "knn")
    write_predictions(evaluation, pq.read_table(evaluation.predictions), ["dog", "cat", "bird"])
    with pytest.raises(
        UserError, match=re.escape(f"{evaluation.predictions}: the list of classes of shapes is not the same")
    ):
        write_report(params)
