"""Section `efficiency`: the kNN accuracy that a method reaches for a number of pairs, views or seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from rr.report.formatting import seed_note
from rr.report.grouping import group_by
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.curves import Curve, Point, plot_curves, set_log_ticks
from rr.report.plots.svg import SERIES, Panel
from rr.report.sections.dynamics import finite_rows

_COSTS = {"pairs": "pairs compared", "views": "views seen", "seconds": "seconds of training"}
_MATCHED_COSTS = {"pairs": "at {:,.0f} pairs", "seconds": "after {:,.1f} seconds of training"}


@dataclass(frozen=True)
class Efficiency:
    """The methods of one dataset and backbone.

    Attributes:
        title: dataset and backbone.
        panels: kNN accuracy against each cost.
        legend: color number of each method.
        sentence: relational reasoning compared with SimCLR at equal cost; empty without both.
    """

    title: str
    panels: list[Panel]
    legend: dict[str, int]
    sentence: str


def build_efficiency(results: GridResults) -> list[Efficiency]:
    """Return the efficiency on each dataset and backbone whose histories contain kNN accuracies."""
    groups = group_by(results.pretrainings, lambda run: (run.paths.dataset, run.paths.backbone))
    sections = [_compare_methods(runs, dataset, backbone) for (dataset, backbone), runs in groups.items()]
    return [section for section in sections if section.panels]


def accuracy_at(points: Sequence[Point], cost: float) -> float | None:
    """Return the accuracy at a cost by linear interpolation, or None outside the range of the points.

    Args:
        points: (cost, accuracy) in ascending order of the cost.
        cost: the cost to evaluate at.
    """
    costs, accuracies = zip(*points, strict=True)
    return float(np.interp(cost, costs, accuracies)) if costs[0] <= cost <= costs[-1] else None


def _compare_methods(runs: Sequence[PretrainResult], dataset: str, backbone: str) -> Efficiency:
    by_method = group_by(runs, lambda run: run.paths.method)
    panels: list[Panel] = []
    colors: dict[str, int] = {}
    points: dict[str, dict[str, list[Point]]] = {}
    for cost, label in _COSTS.items():
        curves = [
            curve
            for index, own_runs in enumerate(by_method.values())
            if (curve := _cost_curve(own_runs, cost, index % len(SERIES) + 1))
        ]
        if curves:
            name = f"efficiency-{dataset}-{backbone}-{cost}"
            alt_text = f"kNN accuracy in percent against {label}"
            panel = plot_curves(name, f"Against {label}", alt_text, curves, _axes_format(cost, label))
            panels.append(Panel(panel.title, panel.svg))  # one legend serves all panels
            colors |= {curve.label: curve.color for curve in curves}
            points[cost] = {curve.label: curve.mean for curve in curves}
    legend = {method: colors[method] for method in by_method if method in colors}
    return Efficiency(f"{dataset}, {backbone}", panels, legend, _compare_with_simclr(by_method, points))


def _cost_curve(runs: Sequence[PretrainResult], cost: str, color: int) -> Curve | None:
    """Return kNN accuracy in percent against a cost for one method; None if the cost is 0 or unknown."""
    seeds = []
    for run in runs:
        history = run.history
        if cost == "seconds":
            history = history | {"seconds": list(accumulate(run.record.epoch_seconds))}
        if len(history.get(cost, [])) != len(history.get("epoch", [])):
            return None
        seeds.append({e: (x, y) for e, (x, y) in finite_rows(history, cost, "knn_accuracy").items() if x > 0})
    curve = Curve(runs[0].paths.method, color, seeds)
    return curve if curve.mean else None


def _compare_with_simclr(by_method: dict[str, list[PretrainResult]], points: dict[str, dict[str, list[Point]]]) -> str:
    """Compare the first relational method with the first SimCLR at the largest cost that both reach."""
    kinds = {runs[0].settings["kind"]: method for method, runs in reversed(by_method.items())}
    ours, theirs = kinds.get("relational"), kinds.get("simclr")
    if ours is None or theirs is None:
        return ""
    machines = [(run.record.machine, run.record.device) for run in (*by_method[ours], *by_method[theirs])]
    parts = []
    for cost, template in _MATCHED_COSTS.items():
        curves = points.get(cost, {})
        # Times are comparable only on the same machine and device.
        is_comparable = cost != "seconds" or all(machine == machines[0] for machine in machines)
        if is_comparable and ours in curves and theirs in curves:
            max_cost = min(curves[ours][-1][0], curves[theirs][-1][0])
            our_accuracy, their_accuracy = (accuracy_at(curves[method], max_cost) for method in (ours, theirs))
            if our_accuracy is not None and their_accuracy is not None:
                values = f"{our_accuracy:.2f} % for {ours} and {their_accuracy:.2f} % for {theirs}"
                parts.append(f"{template.format(max_cost)}, {values}")
    if not parts:
        return ""
    text = f"kNN accuracy at the largest cost that both reach: {'; '.join(parts)} (linear between epochs)."
    return f"{text} {seed_note(len(by_method[method]) for method in (ours, theirs))}"


def _axes_format(cost: str, label: str) -> Callable[[Axes], None]:
    def format_axes(axes: Axes) -> None:
        axes.set_xlabel(label)
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
        if cost == "pairs":
            axes.set_xscale("log")  # the methods differ by orders of magnitude
            set_log_ticks(axes.xaxis, EngFormatter(sep=""))
        else:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return format_axes
