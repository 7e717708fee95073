"""The `view_counts` section: accuracy against the number of views per image, K, if the grid has several values of K."""

from collections.abc import Sequence
from functools import partial

from rr.params import CLASSIFICATION_PROTOCOLS
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.plots.curves import Curve, Point, format_view_counts_axis, plot_curves
from rr.report.plots.svg import Panel
from rr.report.result_tables import group_by_other_settings, split_by_target_and_protocol


def build_accuracy_by_view_count(results: GridResults) -> list[Panel]:
    """Return a plot for each dataset, backbone, target and protocol with runs that differ only in K and the seed."""
    panels = []
    for runs in split_by_target_and_protocol(results.evaluations_of_kind(*CLASSIFICATION_PROTOCOLS)):
        series = group_by_other_settings([run for run in runs if "views" in run.pretraining.settings], "views")
        several = [own for own in series if len({_num_views(run) for run in own}) > 1]
        if several:
            panels.append(_plot_accuracy_by_view_count(several))
    return panels


def _plot_accuracy_by_view_count(series: Sequence[Sequence[EvaluationResult]]) -> Panel:
    """Plot the accuracy of each series of runs that differ only in K and the seed."""
    curves = []
    for own in series:
        points = _points_by_seed(own)
        curves.append(Curve(_series_name(own), own[0].pretraining.color, list(points.values()), seeds=list(points)))
    paths = series[0][0].paths
    run = paths.pretraining
    title = f"{run.dataset}, {run.backbone} → {paths.target}, {paths.protocol}, %"
    if len(series) == 1:  # the plot has no legend
        title = f"{_series_name(series[0])}: {title}"
    name = f"view-counts-{run.dataset}-{run.backbone}-{paths.target}-{paths.protocol}"
    format_axes = partial(format_view_counts_axis, ticks=sorted({_num_views(run) for own in series for run in own}))
    alt_text = f"Accuracy in percent against the number of views, {title}"
    return plot_curves(name, title, alt_text, curves, format_axes, key_name="views")


def _points_by_seed(runs: Sequence[EvaluationResult]) -> dict[int, dict[float, Point]]:
    by_seed = group_by(sorted(runs, key=_num_views), lambda run: run.paths.pretraining.seed)
    return {
        seed: {_num_views(run): (_num_views(run), 100 * run.metrics["accuracy"]) for run in own}
        for seed, own in by_seed.items()
    }


def _series_name(runs: Sequence[EvaluationResult]) -> str:
    """Return the method with the smallest K and, if there are several methods, the one with the largest K."""
    methods = unique(run.paths.pretraining.method for run in sorted(runs, key=_num_views))
    return methods[0] if len(methods) == 1 else f"{methods[0]} to {methods[-1]}"


def _num_views(run: EvaluationResult) -> int:
    views: int = run.pretraining.settings["views"]
    return views
