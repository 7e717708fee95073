"""Efficiency: what kNN accuracy a method has reached after so many pairs, views and seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from rr.report.inputs.collect import Run
from rr.report.plots.curves import Line, Point, line_panel, log_ticks
from rr.report.plots.svg import SERIES, Panel
from rr.report.sections.dynamics import measured
from rr.report.sections.summary import caution
from rr.report.tables import unique

_COSTS = {"pairs": "pairs compared", "views": "views seen", "seconds": "seconds of training"}


@dataclass(frozen=True)
class Efficiency:
    """The methods of one dataset × backbone; `legend` maps them to the numbers of their colours."""

    title: str
    panels: list[Panel]
    legend: dict[str, int]
    sentence: str


def efficiencies(runs: Sequence[Run]) -> list[Efficiency]:
    """One per dataset × backbone in which anything was measured."""
    found = []
    for dataset, backbone in unique((run.cell.dataset, run.cell.backbone) for run in runs):
        here = [run for run in runs if (run.cell.dataset, run.cell.backbone) == (dataset, backbone)]
        one = _efficiency(here, dataset, backbone)
        if one.panels:
            found.append(one)
    return found


def cost_line(runs: Sequence[Run], cost: str, colour: int) -> Line | None:
    """kNN accuracy in percent against what one method's seeds have spent; None where that is nothing or not known."""
    seeds = []
    for run in runs:
        history = run.history
        if cost == "seconds":
            history = history | {"seconds": list(accumulate(run.record.epoch_seconds))}
        if len(history.get(cost, [])) != len(history.get("epoch", [])):
            return None
        seeds.append({e: (x, y) for e, (x, y) in measured(history, cost, "knn_accuracy").items() if x > 0})
    line = Line(runs[0].cell.method, colour, seeds)
    return line if line.mean else None


def reached(points: Sequence[Point], cost: float) -> float | None:
    """The accuracy at `cost`, linear between `points` in the order of their cost; None outside them."""
    costs, values = zip(*points, strict=True)
    return float(np.interp(cost, costs, values)) if costs[0] <= cost <= costs[-1] else None


def _efficiency(runs: Sequence[Run], dataset: str, backbone: str) -> Efficiency:
    methods = unique(run.cell.method for run in runs)
    by_method = {method: [run for run in runs if run.cell.method == method] for method in methods}
    panels: list[Panel] = []
    legend: dict[str, int] = {}
    curves: dict[str, dict[str, list[Point]]] = {}
    for cost, words in _COSTS.items():
        lines = [cost_line(by_method[method], cost, place % len(SERIES) + 1) for place, method in enumerate(methods)]
        known = [line for line in lines if line]
        if known:
            name = f"efficiency-{dataset}-{backbone}-{cost}"
            spoken = f"kNN accuracy in percent against {words}"
            panel = line_panel(name, f"Against {words}", spoken, known, _frame(cost, words))
            panels.append(Panel(panel.title, panel.svg))
            legend |= {line.label: line.colour for line in known}
            curves[cost] = {line.label: line.mean for line in known}
    legend = {method: legend[method] for method in methods if method in legend}
    return Efficiency(f"{dataset}, {backbone}", panels, legend, _sentence(by_method, curves))


def _sentence(by_method: dict[str, list[Run]], curves: dict[str, dict[str, list[Point]]]) -> str:
    """The first relational method beside the first SimCLR at the largest cost that both have reached; else empty."""
    kinds = {runs[0].settings["kind"]: method for method, runs in reversed(by_method.items())}
    ours, theirs = kinds.get("relational"), kinds.get("simclr")
    if ours is None or theirs is None:
        return ""
    parts = []
    where = [(run.record.machine, run.record.device) for run in [*by_method[ours], *by_method[theirs]]]
    for cost, words in (("pairs", "at {:,.0f} pairs"), ("seconds", "after {:,.1f} seconds of training")):
        known = curves.get(cost, {})
        # Seconds of two machines say nothing of two methods.
        comparable = cost != "seconds" or all(one == where[0] for one in where)
        if comparable and ours in known and theirs in known:
            most = min(known[ours][-1][0], known[theirs][-1][0])
            first, second = (reached(known[method], most) for method in (ours, theirs))
            if first is not None and second is not None:
                figures = f"{ours} has a kNN accuracy of {first:.2f} % and {theirs} of {second:.2f} %"
                parts.append(f"{words.format(most)} {figures}")
    if not parts:
        return ""
    text = f"At the most that both have spent: {'; '.join(parts)}, read off linearly between epochs."
    return f"{text} {caution(len(by_method[one]) for one in (ours, theirs))}"


def _frame(cost: str, words: str) -> Callable[[Axes], None]:
    def frame(axes: Axes) -> None:
        axes.set_xlabel(words)
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
        if cost == "pairs":
            axes.set_xscale("log")  # methods differ by orders of magnitude
            log_ticks(axes.xaxis, EngFormatter(sep=""))
        else:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return frame
