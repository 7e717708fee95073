"""The `dynamics` section: how the features change during training, and how the relational task relates to them."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.curves import Curve, format_epoch_axis, format_percent_axes, plot_curves, set_log_ticks
from rr.report.plots.svg import Panel
from rr.report.sections.curves import HistoryPlots, plot_histories

_PERCENT_COLUMNS = {"knn_accuracy", "accuracy"}  # columns that are plotted in percent


def build_dynamics(results: GridResults) -> list[HistoryPlots]:
    """Return the learning dynamics of every method whose histories contain them."""
    return plot_histories(results, _plot_metrics, _plot_knn_against_task_metrics)


def finite_values_by_epoch(history: dict[str, list[float]], *columns: str) -> dict[float, list[float]]:
    """Return the values of `columns` by epoch for a plot, with accuracies in percent.

    Epochs in which one of the values is not finite are left out. The result is empty if a column is absent.
    """
    if not {"epoch", *columns} <= history.keys():
        return {}
    scales = [100 if column in _PERCENT_COLUMNS else 1 for column in columns]
    rows = zip(history["epoch"], *(history[column] for column in columns), strict=True)
    return {
        epoch: [scale * value for scale, value in zip(scales, values, strict=True)]
        for epoch, *values in rows
        if all(map(math.isfinite, values))
    }


def _plot_metrics(runs: Sequence[PretrainResult], name: str) -> list[Panel]:
    """Plot metrics by epoch."""
    is_relational = runs[0].settings["kind"] == "relational"
    accuracy = "Accuracy, %" if is_relational else "kNN accuracy, %"
    accuracies = {"knn_accuracy": "kNN on frozen features"}
    accuracies |= {"accuracy": "pairs classified correctly"} if is_relational else {}
    information = {"information": "information"}
    ranks = {"effective_rank": "centered features", "rankme": "features (RankMe)"}
    gradients = {"gradient_norm_backbone": "backbone", "gradient_norm_head": "head"}
    plots: list[tuple[str, str, dict[str, str], Callable[[Axes], None]]] = [
        (accuracy, "Accuracy in percent by epoch", accuracies, format_percent_axes),
        ("Information between views, bits", "Information in bits by epoch", information, format_epoch_axis),
        ("Effective rank", "Effective rank by epoch", ranks, format_epoch_axis),
        ("Gradient norm", "Gradient norm by epoch", gradients, _format_log_axis),
    ]
    panels = []
    for title, alt_text, columns, format_axes in plots:
        first_column, first_label = next(iter(columns.items()))
        curves = _make_curves(runs, columns, positive_only=format_axes is _format_log_axis)
        # Without kNN accuracies, the first plot is left out: the accuracy on pairs is already in the `curves` section.
        if curves and curves[0].label == first_label:
            panels.append(plot_curves(f"{name}-{first_column}", title, alt_text, curves, format_axes))
    return panels


def _make_curves(runs: Sequence[PretrainResult], columns: dict[str, str], positive_only: bool) -> list[Curve]:
    """Return a curve for each column that all seeds have. `columns` maps each column to the label of its curve.

    With `positive_only`, values of 0 or less are left out, because a logarithmic axis cannot show them.
    """
    curves = []
    for style, (column, label) in enumerate(columns.items()):
        seeds = [
            {
                epoch: (epoch, value)
                for epoch, (value,) in finite_values_by_epoch(run.history, column).items()
                if value > 0 or not positive_only
            }
            for run in runs
        ]
        curve = Curve(label, runs[0].color, seeds, style, [run.paths.seed for run in runs])
        if curve.mean_points:
            curves.append(curve)
    return curves


def _plot_knn_against_task_metrics(runs: Sequence[PretrainResult], name: str) -> list[Panel]:
    """Plot kNN accuracy against the accuracy of the relational task and the information between views, by epoch."""
    if runs[0].settings["kind"] != "relational":
        return []
    panels = []
    for column, label in (("accuracy", "pairs classified correctly, %"), ("information", "information, bits")):
        seeds = [
            {epoch: (x, y) for epoch, (x, y) in finite_values_by_epoch(run.history, column, "knn_accuracy").items()}
            for run in runs
        ]
        curve = Curve("kNN accuracy", runs[0].color, seeds, seeds=[run.paths.seed for run in runs])
        if len(curve.mean_points) > 1:
            (first, _), (last, _) = curve.mean_points[0], curve.mean_points[-1]
            alt_text = f"kNN accuracy in percent while {label} goes from {first:.4g} to {last:.4g}"
            title, format_axes = f"kNN accuracy, %, against {label}", partial(_format_x_axis, label=label)
            panels.append(plot_curves(f"{name}-knn-{column}", title, alt_text, [curve], format_axes, mark_ends=True))
    return panels


def _format_x_axis(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid()


def _format_log_axis(axes: Axes) -> None:
    format_epoch_axis(axes)
    axes.set_yscale("log")
    set_log_ticks(axes.yaxis, StrMethodFormatter("{x:g}"))
