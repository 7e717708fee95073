"""Section `retrieval`: how often the training images nearest to a test image have its class, with examples."""

from dataclasses import dataclass

from rr.report.inputs.collect import RETRIEVAL_METRICS, EvaluationResult, GridResults, retrieval_cutoffs
from rr.report.plots.image import ImagePanel, image_panel
from rr.report.tables import MetricColumn, ResultTable, group_by_method, result_table, split_by_protocol

_CAPTION = (
    "Each row shows a query, the first test image of a class, followed by its ten nearest training images in order of "
    "distance. A green frame marks an image of the same class, a red frame one of another class."
)


@dataclass(frozen=True)
class RetrievalTable:
    """The metrics of one target under one retrieval protocol, and examples of each method's first seed."""

    table: ResultTable
    images: list[ImagePanel]


def build_retrieval(results: GridResults) -> list[RetrievalTable]:
    """Return one table per dataset, backbone, target and retrieval protocol."""
    tables = []
    for runs in split_by_protocol(results.evaluations_of_kind("retrieval")):
        protocol, cutoffs = runs[0].paths.protocol, retrieval_cutoffs(runs[0].settings)
        columns = [MetricColumn("mAP", protocol, "mean_average_precision")]
        columns += [
            MetricColumn(f"{metric.replace('_', ' ')} at {k}", protocol, f"{metric}_at_{k}")
            for metric in RETRIEVAL_METRICS
            for k in cutoffs
        ]
        images = [_example_panel(seeds[0]) for seeds in group_by_method(runs).values()]
        tables.append(RetrievalTable(result_table(runs, columns), images))
    return tables


def _example_panel(evaluation: EvaluationResult) -> ImagePanel:
    run = evaluation.paths.pretraining
    title = f"{run.method} on {run.dataset}, {run.backbone}, seed {run.seed}"
    return image_panel(title, _CAPTION, evaluation.examples_png, evaluation.paths.examples, max_scale=1)
