"""The `efficiency` section: the kNN accuracy that a method reaches for a given number of pairs, views or seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from rr.report.formatting import seed_note
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.curves import Curve, Point, plot_curves, set_log_ticks
from rr.report.plots.svg import Panel
from rr.report.sections.dynamics import finite_values_by_epoch

_COSTS = {"pairs": "pairs compared", "views": "views seen", "seconds": "seconds of training"}
_COMPARED_COSTS = {"pairs": "{:,.0f} pairs", "seconds": "{:,.1f} seconds of training"}


@dataclass(frozen=True)
class Efficiency:
    """The efficiency of the methods for one dataset and backbone.

    Attributes:
        title: dataset and backbone.
        panels: kNN accuracy against each cost.
        legend: the numbers of each method's color and line style.
        sentence: comparison of relational reasoning with SimCLR at equal cost; empty if one of them was not run.
        has_rotations: whether a method is RotationNet, which passes each view through the network four times.
    """

    title: str
    panels: list[Panel]
    legend: dict[str, tuple[int, int]]
    sentence: str
    has_rotations: bool


def build_efficiency(results: GridResults) -> list[Efficiency]:
    """Return the efficiency for each dataset and backbone whose histories contain kNN accuracies."""
    groups = group_by(results.pretrainings, lambda run: (run.paths.dataset, run.paths.backbone))
    sections = [_analyze_methods(runs, dataset, backbone) for (dataset, backbone), runs in groups.items()]
    return [section for section in sections if section.panels]


def accuracy_at(points: Sequence[Point], cost: float) -> float | None:
    """Return the accuracy at a cost by linear interpolation, or None outside the range of the points.

    `points` are pairs of cost and accuracy, in ascending order of the cost.
    """
    costs, accuracies = zip(*points, strict=True)
    return float(np.interp(cost, costs, accuracies)) if costs[0] <= cost <= costs[-1] else None


def _analyze_methods(runs: Sequence[PretrainResult], dataset: str, backbone: str) -> Efficiency:
    by_method = group_by(runs, lambda run: run.paths.method)
    panels: list[Panel] = []
    legend: dict[str, tuple[int, int]] = {}
    means: dict[str, dict[str, list[Point]]] = {}  # by cost and method
    for cost, label in _COSTS.items():
        curves = [_accuracy_curve(method_runs, cost) for method_runs in by_method.values()]
        curves = [curve for curve in curves if curve.mean_points]
        if curves:
            name, alt_text = f"efficiency-{dataset}-{backbone}-{cost}", f"kNN accuracy in percent against {label}"
            format_axes = partial(_format_axes, cost=cost, label=label)
            panel = plot_curves(name, f"kNN accuracy, %, against {label}", alt_text, curves, format_axes)
            legend |= panel.series
            panels.append(replace(panel, series={}))  # one legend serves all panels
            means[cost] = {curve.label: curve.mean_points for curve in curves}
    has_rotations = any(run.settings["kind"] == "rotation" for run in runs)
    sentence = _compare_with_simclr(by_method, means)
    return Efficiency(f"{dataset}, {backbone}", panels, legend, sentence, has_rotations)


def _accuracy_curve(runs: Sequence[PretrainResult], cost: str) -> Curve:
    """Return the kNN accuracy of one method in percent against a cost; empty if the cost is 0 or was not recorded."""
    seeds = []
    for run in runs:
        history = run.history
        if cost == "seconds":
            history = history | {"seconds": list(accumulate(run.record.epoch_seconds))}
        is_recorded = len(history.get(cost, [])) == len(history.get("epoch", []))
        rows = finite_values_by_epoch(history, cost, "knn_accuracy") if is_recorded else {}
        seeds.append({epoch: (x, y) for epoch, (x, y) in rows.items() if x > 0})
    return Curve(
        runs[0].paths.method, runs[0].color, seeds, style=runs[0].color - 1, seeds=[run.paths.seed for run in runs]
    )


def _compare_with_simclr(by_method: dict[str, list[PretrainResult]], means: dict[str, dict[str, list[Point]]]) -> str:
    """Return a sentence that compares the first relational method with the first SimCLR method.

    They are compared at the largest cost that both reach. `means` contains the pairs of cost and mean accuracy for each
    cost and method.
    """
    ours, theirs = (
        next((method for method, runs in by_method.items() if runs[0].settings["kind"] == kind), None)
        for kind in ("relational", "simclr")
    )
    if ours is None or theirs is None:
        return ""
    records = [run.record for run in (*by_method[ours], *by_method[theirs])]
    machines = unique(
        [(record.machine, record.device) for record in records]
        + [(session.machine, session.device) for record in records for session in record.earlier_sessions]
    )
    parts = []
    for cost, template in _COMPARED_COSTS.items():
        curves = means.get(cost, {})
        # Times are comparable only on the same machine and device.
        if ours in curves and theirs in curves and (cost != "seconds" or len(machines) == 1):
            max_cost = min(curves[ours][-1][0], curves[theirs][-1][0])
            our_accuracy, their_accuracy = (accuracy_at(curves[method], max_cost) for method in (ours, theirs))
            if our_accuracy is not None and their_accuracy is not None:
                values = f"{our_accuracy:.2f}% for {ours} and {their_accuracy:.2f}% for {theirs}"
                parts.append(f"{values} ({template.format(max_cost)})")
    if not parts:
        return ""
    text = (
        "At the largest cost that both methods reach, the kNN accuracy, interpolated between epochs, is "
        f"{', and '.join(parts)}."
    )
    return f"{text} {seed_note(len(by_method[method]) for method in (ours, theirs))}"


def _format_axes(axes: Axes, cost: str, label: str) -> None:
    axes.set_xlabel(label)
    axes.set_ylim(0, 100)
    axes.grid(axis="y")
    if cost == "pairs":
        axes.set_xscale("log")  # the methods differ by orders of magnitude
        set_log_ticks(axes.xaxis, EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
