"""Section `retrieval`: how often the training images nearest to a test image have its class, with examples."""

from dataclasses import dataclass

from rr.report.inputs.collect import EvaluationResult, GridResults, cutoffs
from rr.report.plots.image import ImagePanel, image_panel
from rr.report.tables import MetricColumn, ResultTable, by_protocol, first_seeds, result_table

_CAPTION = (
    "Each row shows a query, the first test image of a class, followed by its ten nearest training images in order of "
    "distance. A green frame marks an image of the same class, a red frame one of another class."
)
_METRIC_NAMES = {"precision": "precision", "recall": "recall", "hit_rate": "hit rate"}


@dataclass(frozen=True)
class RetrievalTable:
    """The metrics of one target under one retrieval protocol, and examples of each method's first seed."""

    table: ResultTable
    caption: str
    images: list[ImagePanel]


def build_retrieval(results: GridResults) -> list[RetrievalTable]:
    """Return one table per dataset, backbone, target and retrieval protocol."""
    tables = []
    for target, protocol, runs in by_protocol(results.evaluations_of_kind("retrieval")):
        columns = _metric_columns(protocol, cutoffs(runs[0].settings))
        images = [_example_panel(run) for run in first_seeds(runs)]
        tables.append(RetrievalTable(result_table(results, target, runs, columns), _CAPTION, images))
    return tables


def _metric_columns(protocol: str, ks: list[int]) -> list[MetricColumn]:
    at_k = [
        MetricColumn(f"{title} at {k}", protocol, f"{name}_at_{k}") for name, title in _METRIC_NAMES.items() for k in ks
    ]
    return [MetricColumn("mAP", protocol, "mean_average_precision"), *at_k]


def _example_panel(evaluation: EvaluationResult) -> ImagePanel:
    run = evaluation.paths.pretraining
    title = f"{run.method} on {run.dataset}, {run.backbone}, seed {run.seed}"
    return image_panel(title, _CAPTION, evaluation.examples_png, evaluation.paths.examples, max_scale=1)
