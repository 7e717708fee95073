"""The `curves` section: loss, training accuracy and the other metrics of user-defined methods by epoch."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr.report.grouping import group_by
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.curves import Curve, Point, format_epoch_axis, format_percent_axes, plot_curves
from rr.report.plots.svg import Panel

# For each plot: the prefix of its columns, its title, the start of its description for screen readers, a function that
# formats the axes, and a scale. All accuracies have the same y axis, whereas losses of different methods are not
# comparable.
_PLOTS = (
    ("loss", "Loss", "Loss by epoch", format_epoch_axis, 1),
    ("accuracy", "Training accuracy, %", "Accuracy in percent by epoch", format_percent_axes, 100),
)
# Columns of the history that other sections show. All other columns are metrics of user-defined methods.
OTHER_COLUMNS = {
    "epoch", "information", "views", "pairs", "knn_accuracy", "effective_rank", "rankme", "gradient_norm_backbone",
    "gradient_norm_head",
}  # fmt: skip
_PAIR_LABELS = {
    "accuracy": "all pairs",
    "accuracy_positive": "two views of one image",
    "accuracy_negative": "views of two images",
}
_PAIR_LABELS_WITH_LABELS = _PAIR_LABELS | {"accuracy_positive": "two views of one image or class"}


@dataclass(frozen=True)
class HistoryPlots:
    """Plots of the histories of one method, dataset and backbone.

    Attributes:
        title: method, dataset and backbone.
        panels: metrics by epoch.
        relation_panels: kNN accuracy against metrics of the relational task; empty in the `curves` section.
        files: history file of each seed.
    """

    title: str
    panels: list[Panel]
    relation_panels: list[Panel]
    files: dict[int, Path]


def build_curves(results: GridResults) -> list[HistoryPlots]:
    """Return the curves of every method that was trained."""
    return plot_histories(results, _plot_metrics_of_training)


def plot_histories(
    results: GridResults,
    plot: Callable[[Sequence[PretrainResult], str], list[Panel]],
    plot_relations: Callable[[Sequence[PretrainResult], str], list[Panel]] = lambda runs, name: [],
) -> list[HistoryPlots]:
    """Return the plots of each method, dataset and backbone for which `plot` returns at least one.

    `plot` and `plot_relations`, which returns `relation_panels`, take the runs of all seeds and a name that is unique
    on the page.
    """
    groups = group_by(results.pretrainings, lambda run: (run.paths.method, run.paths.dataset, run.paths.backbone))
    sections = []
    for (method, dataset, backbone), runs in groups.items():
        name, title = f"{method}-{dataset}-{backbone}", f"{method} on {dataset}, {backbone}"
        if panels := plot(runs, name):
            files = {run.paths.seed: run.paths.history for run in runs}
            sections.append(HistoryPlots(title, panels, plot_relations(runs, name), files))
    return sections


def _plot_metrics_of_training(runs: Sequence[PretrainResult], name: str) -> list[Panel]:
    """Return plots of the losses, of the accuracies, and of each other metric; empty if nothing was trained."""
    runs = [run for run in runs if run.history]
    if not runs:
        return []
    columns = [column for column in runs[0].history if all(column in run.history for run in runs)]
    plots = [(*plot, [c for c in columns if c == plot[0] or c.startswith(f"{plot[0]}_")]) for plot in _PLOTS]
    shown = OTHER_COLUMNS.union(*(members for *_, members in plots))
    for column in columns:
        if column not in shown and all(any(map(math.isfinite, run.history[column])) for run in runs):
            title, file_name = column.replace("_", " ").capitalize(), re.sub(r"[^\w-]", "_", column)
            plots.append((file_name, title, f"{title} by epoch", format_epoch_axis, 1, [column]))
    panels = []
    for prefix, title, alt_text, format_axes, scale, members in plots:
        curves: list[Curve] = []
        for column in members:
            points: list[dict[float, Point]] = [
                {
                    epoch: (epoch, scale * value)
                    for epoch, value in zip(run.history["epoch"], run.history[column], strict=True)
                }
                for run in runs
            ]
            label, seeds = _curve_label(column, runs[0].settings), [run.paths.seed for run in runs]
            curves.append(Curve(label, runs[0].color, points, style=len(curves), seeds=seeds))
        if curves:
            panels.append(plot_curves(f"{name}-{prefix}", title, alt_text, curves, format_axes))
    return panels


def _curve_label(column: str, settings: dict[str, Any]) -> str:
    """Return the legend label for a column of the history."""
    if settings["kind"] == "relational" and column in _PAIR_LABELS:
        uses_labels = bool(settings.get("label_fraction"))
        return (_PAIR_LABELS_WITH_LABELS if uses_labels else _PAIR_LABELS)[column]
    return {"accuracy": "training images"}.get(column, column.replace("_", " "))
