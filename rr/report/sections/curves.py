"""Section `curves`: loss and training accuracy by epoch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.curves import Curve, format_epoch_axis, format_percent_axes, plot_curves
from rr.report.plots.svg import Panel

_COLUMN = re.compile(r"^(loss|accuracy)(_|$)")
_PAIR_LABELS = {
    "accuracy": "all pairs",
    "accuracy_positive": "two views of one image",
    "accuracy_negative": "views of two images",
}


@dataclass(frozen=True)
class TrainingCurves:
    """The plots of one method, dataset and backbone, and the history file of each seed."""

    title: str
    panels: list[Panel]
    files: dict[int, Path]


def build_curves(results: GridResults) -> list[TrainingCurves]:
    """Return the curves of every method that was trained."""
    sections = []
    for (method, dataset, backbone), runs in results.pretrainings_by_method().items():
        panels = _plot_history(runs, f"{method}-{dataset}-{backbone}")
        if panels:
            files = {run.paths.seed: run.paths.history for run in runs}
            sections.append(TrainingCurves(f"{method} on {dataset}, {backbone}", panels, files))
    return sections


def _plot_history(runs: Sequence[PretrainResult], name: str) -> list[Panel]:
    """Return a plot of the losses and one of the accuracies of a method's seeds."""
    histories = [run.history for run in runs if run.history]
    if not histories:
        return []
    kind = runs[0].settings["kind"]
    panels = []
    for metric in ("loss", "accuracy"):
        columns = [
            column
            for column in histories[0]
            if (match := _COLUMN.match(column))
            and match[1] == metric
            and all(column in history for history in histories)
        ]
        if columns:
            scale = 100 if metric == "accuracy" else 1
            curves = []
            for color, column in enumerate(columns, 1):
                seeds = [{e: (e, scale * y) for e, y in zip(h["epoch"], h[column], strict=True)} for h in histories]
                curves.append(Curve(_series_label(column, kind), color, seeds))
            panels.append(_plot_metric(metric, curves, f"{name}-{metric}"))
    return panels


def _plot_metric(metric: str, curves: list[Curve], name: str) -> Panel:
    """Plot accuracies on one scale for all methods; losses of different methods are not comparable."""
    if metric == "accuracy":
        alt_text = "Accuracy in percent by epoch"
        return plot_curves(name, "Training accuracy, %", alt_text, curves, format_percent_axes)
    return plot_curves(name, "Loss", "Loss by epoch", curves, format_epoch_axis)


def _series_label(column: str, kind: str) -> str:
    """Return the legend's label of a column of the history."""
    if kind == "relational" and column in _PAIR_LABELS:
        return _PAIR_LABELS[column]
    return {"accuracy": "training images"}.get(column, column.replace("_", " "))
