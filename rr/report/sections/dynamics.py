"""Learning dynamics: what a backbone becomes, epoch by epoch, and what the relational task has to do with it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from rr.report.inputs.collect import Run
from rr.report.plots.curves import Line, epoch_axis, line_panel, log_ticks, percent_axis
from rr.report.plots.svg import Panel

_SHARES = {"knn_accuracy", "accuracy"}
_KNN = {"knn_accuracy": "kNN on frozen features"}
_PAIRS = {"accuracy": "pairs told apart"}
_INFORMATION = {"information": "information"}
_RANK = {"effective_rank": "effective rank"}
_NORMS = {"gradient_norm_backbone": "backbone", "gradient_norm_head": "head"}


@dataclass(frozen=True)
class Dynamics:
    """The panels of one method, those that set two figures against each other, and the histories, by seed."""

    title: str
    panels: list[Panel]
    relations: list[Panel]
    files: dict[int, Path]


def dynamics(groups: dict[tuple[str, str, str], list[Run]]) -> list[Dynamics]:
    """One per method × dataset × backbone (the keys) whose histories have anything measured."""
    found = []
    for place, runs in groups.items():
        panels, relations = _panels(runs, "-".join(place)), _relations(runs, "-".join(place))
        if panels:
            title = "{} on {}, {}".format(*place)
            found.append(Dynamics(title, panels, relations, {run.cell.seed: run.cell.history for run in runs}))
    return found


def measured(history: dict[str, list[float]], *columns: str) -> dict[float, list[float]]:
    """The values of `columns` by epoch, shares as percent, where all are finite; none where a column is absent."""
    if not {"epoch", *columns} <= history.keys():
        return {}
    scales = [100 if column in _SHARES else 1 for column in columns]
    rows = zip(history["epoch"], *(history[column] for column in columns), strict=True)
    return {
        epoch: [scale * value for scale, value in zip(scales, values, strict=True)]
        for epoch, *values in rows
        if all(map(math.isfinite, values))
    }


def _panels(runs: Sequence[Run], name: str) -> list[Panel]:
    relational = runs[0].settings["kind"] == "relational"
    accuracy = "Accuracy, %" if relational else "kNN accuracy, %"
    wanted: list[tuple[str, str, dict[str, str], Callable[[Axes], None]]] = [
        (accuracy, "Accuracy in percent per epoch", _KNN | (_PAIRS if relational else {}), percent_axis),
        ("Information between views, bits", "Information in bits per epoch", _INFORMATION, epoch_axis),
        ("Effective rank", "Effective rank per epoch", _RANK, epoch_axis),
        ("Norm of the gradient", "Norm of the gradient per epoch", _NORMS, _log_axis),
    ]
    panels = []
    for title, spoken, columns, frame in wanted:
        lines = _lines(runs, columns, logarithmic=columns is _NORMS)
        # Pairs alone stand under the curves already: without kNN beside them they say nothing of the space.
        if lines and lines[0].label == next(iter(columns.values())):
            panels.append(line_panel(f"{name}-{next(iter(columns))}", title, spoken, lines, frame))
    return panels


def _lines(runs: Sequence[Run], columns: dict[str, str], logarithmic: bool) -> list[Line]:
    """A line for each column that every seed has measured; a zero has no place on a logarithmic axis."""
    lines = []
    for colour, (column, label) in enumerate(columns.items(), 1):
        seeds = [
            {
                epoch: (epoch, value)
                for epoch, (value,) in measured(run.history, column).items()
                if value > 0 or not logarithmic
            }
            for run in runs
        ]
        line = Line(label, colour, seeds)
        if line.mean:
            lines.append(line)
    return lines


def _relations(runs: Sequence[Run], name: str) -> list[Panel]:
    """kNN accuracy against what the relational task measures, the epochs along the curve."""
    if runs[0].settings["kind"] != "relational":
        return []
    panels = []
    for column, words in (("accuracy", "pairs told apart, %"), ("information", "information, bits")):
        seeds = [
            {epoch: (x, y) for epoch, (x, y) in measured(run.history, column, "knn_accuracy").items()} for run in runs
        ]
        line = Line("kNN accuracy", 1, seeds)
        if len(line.mean) > 1:
            (first, _), (last, _) = line.mean[0], line.mean[-1]
            spoken = f"kNN accuracy in percent while {words} goes from {first:.4g} to {last:.4g}"
            title = f"kNN accuracy, %, against {words}"
            panels.append(line_panel(f"{name}-knn-{column}", title, spoken, [line], _against(words), ends=True))
    return panels


def _against(words: str) -> Callable[[Axes], None]:
    def frame(axes: Axes) -> None:
        axes.set_xlabel(words)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid()

    return frame


def _log_axis(axes: Axes) -> None:
    epoch_axis(axes)
    axes.set_yscale("log")
    log_ticks(axes.yaxis, StrMethodFormatter("{x:g}"))
