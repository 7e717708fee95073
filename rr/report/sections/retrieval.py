"""The `retrieval` section: how often the training images nearest to a test image share its class, with examples."""

from collections.abc import Sequence
from dataclasses import dataclass

from rr.report.formatting import format_difference, format_mean_std, format_percent
from rr.report.inputs.collect import RETRIEVAL_METRICS, EvaluationResult, GridResults, retrieval_cutoffs
from rr.report.plots.image import ByteBudget, ImagePanel, image_panel
from rr.report.result_tables import (
    MetricColumn,
    ResultTable,
    group_by_method,
    make_example_panels,
    result_table,
    split_by_target_and_protocol,
)
from rr.report.statistics import mean_confidence_interval, mean_std
from rr.report.table import Cell, Table, make_table, numeric_columns

_RERANKED_PREFIX = "reranked_"  # prefix of the metrics after the relation head has reordered the nearest images
_MAX_BYTES = 200_000  # of examples on the page
_CAPTION = (
    "Each row shows a query (the first test image of a class), followed by its nearest training images in order of "
    "distance. A blue frame marks an image of the same class, and an orange frame marks an image of a different class."
)


@dataclass(frozen=True)
class RetrievalTable:
    """The results of one target under one retrieval protocol.

    Attributes:
        table: the metrics.
        head_table: the metrics before and after the relation head has reordered the nearest images, or None if no
            method has a relation head.
        head_sentences: for each method with a relation head, whether reordering helps.
        images: examples of each method's first seed.
    """

    table: ResultTable
    head_table: Table | None
    head_sentences: list[str]
    images: list[ImagePanel]


def build_retrieval(results: GridResults) -> list[RetrievalTable]:
    """Return one table per dataset, backbone, target and retrieval protocol."""
    tables, budget = [], ByteBudget(_MAX_BYTES)
    for runs in split_by_target_and_protocol(results.evaluations_of_kind("retrieval")):
        protocol, cutoffs = runs[0].paths.protocol, retrieval_cutoffs(runs[0].settings)
        columns = [MetricColumn("mAP", protocol, "mean_average_precision")]
        columns += [
            MetricColumn(f"{metric.replace('_', ' ')} at {k}", protocol, f"{metric}_at_{k}")
            for metric in RETRIEVAL_METRICS
            for k in cutoffs
        ]
        first_seeds = [seeds[0] for seeds in group_by_method(runs).values()]
        images = make_example_panels(first_seeds, lambda run: _example_panel(run, budget))
        with_head = group_by_method([run for run in runs if f"{_RERANKED_PREFIX}mean_average_precision" in run.metrics])
        sentences = [_describe_relation_head_effect(method, seeds) for method, seeds in with_head.items()]
        table = _relation_head_table(with_head, cutoffs) if with_head else None
        tables.append(RetrievalTable(result_table(runs, columns), table, sentences, images))
    return tables


def _relation_head_table(with_head: dict[str, list[EvaluationResult]], cutoffs: Sequence[int]) -> Table:
    """Return the mAP and the precision at each cutoff with and without the relation head."""
    metrics = {"mAP": "mean_average_precision"} | {f"precision at {k}": f"precision_at_{k}" for k in cutoffs}
    titles = [title for name in metrics for title in (name, f"{name}, head")]
    rows = []
    for method, seeds in with_head.items():
        values = [
            mean_std([run.metrics[f"{prefix}{metric}"] for run in seeds])
            for metric in metrics.values()
            for prefix in ("", _RERANKED_PREFIX)
        ]
        color = seeds[0].pretraining.color
        rows.append([Cell(method, color=color), *(Cell(format_mean_std(value, format_percent)) for value in values)])
    return make_table(["Method", *numeric_columns(titles)], rows)


def _describe_relation_head_effect(method: str, seeds: Sequence[EvaluationResult]) -> str:
    """Return a sentence on whether the relation head improves the mAP, based on the difference for each seed."""
    before, after = "mean_average_precision", f"{_RERANKED_PREFIX}mean_average_precision"
    change = mean_std([100 * (run.metrics[after] - run.metrics[before]) for run in seeds])
    text = f"{method}: reordering changes the mAP by {format_difference(change.mean)} percentage points"
    if change.std is None:
        return f"{text} (a single seed, so the variation between seeds is unknown)."
    low, high = mean_confidence_interval(change)
    verdict = "it helps" if low > 0 else "it makes retrieval worse" if high < 0 else "the effect is inconclusive"
    return f"{text} (95% interval over seeds {format_difference(low)} to {format_difference(high)}): {verdict}."


def _example_panel(evaluation: EvaluationResult, budget: ByteBudget) -> ImagePanel:
    run = evaluation.paths.pretraining
    title = f"{run.method} on {run.dataset}, {run.backbone}, seed {run.seed}"
    file = evaluation.paths.examples
    return image_panel(title, _CAPTION, evaluation.examples_png, file, budget, max_scale=1)
