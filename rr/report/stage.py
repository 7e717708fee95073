"""The `report` stage: read the results of all runs in the grid and write the report files."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.params import Params
from rr.report.inputs.collect import EvaluationResult, collect_results
from rr.report.latex import render_latex
from rr.report.page import build_sections, render_html, render_markdown
from rr.runtime.atomic import atomic_write, write_text

_NAMES = ("dataset", "backbone", "method", "seed", "target", "protocol", "metric")
_COSTS = ("views", "pairs")  # columns of the history
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(_NAMES, pa.string()),
        "seed": pa.int64(),
        "value": pa.float64(),
        **dict.fromkeys(_COSTS, pa.float64()),
    }
)


def write_report(params: Params) -> None:
    """Write the page, its Markdown version, the metrics as Parquet and the tables as LaTeX.

    The same input files always produce byte-identical outputs. If an input is invalid, nothing is written.

    Raises:
        UserError: if a run's file is missing or damaged, or if the settings or classes of the runs are inconsistent.
    """
    html_path, markdown_path, parquet_path, latex_path = paths.REPORT_FILES
    results = collect_results(params)
    sections = build_sections(results)
    html, markdown = render_html(sections), render_markdown(sections)
    latex = render_latex(sections["accuracies"], sections["paper_comparison"])
    _write_parquet(results.evaluations, parquet_path)
    write_text(latex_path, latex)
    write_text(markdown_path, markdown)
    write_text(html_path, html)


def _write_parquet(evaluations: Sequence[EvaluationResult], path: Path) -> None:
    """Write all metrics of all evaluations in long format: one row per evaluation and metric.

    Each row also contains the cost of the pretraining run, which is null if the history has no such column (NaN if its
    last cell is empty).
    """
    rows = []
    for evaluation in evaluations:
        run = evaluation.paths.pretraining
        names = (run.dataset, run.backbone, run.method, run.seed, evaluation.paths.target, evaluation.paths.protocol)
        history = evaluation.pretraining.history
        costs = [history[cost][-1] if cost in history else None for cost in _COSTS]
        rows += [
            dict(zip(_SCHEMA.names, (*names, *metric, *costs), strict=True)) for metric in evaluation.metrics.items()
        ]
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
