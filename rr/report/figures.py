"""Curves and accuracies as SVG that takes its colours and its font from the page.

Every panel is a small picture of its own, so that a phone shows one below the other at a size that can be read.
Matplotlib draws with the stand-in colours of `_COLOURS`; `_svg` puts the page's in their place.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rr.report.collect import Run
from rr.report.tables import Table, percent

_INK, _RULE = "#010101", "#010102"
_SERIES = ("#010111", "#010112", "#010113", "#010114")
_COLOURS = {_INK: "currentColor", _RULE: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(_SERIES, 1)}
_MARKED_EPOCHS = 12  # up to so many, each epoch gets a mark: one epoch alone would draw no line at all
_ALIKE = re.compile(r"^(loss|accuracy)(_|$)")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Panel:
    """One picture: `svg` to put into the page, and the names of its series in the order of their colours."""

    title: str
    svg: str
    series: list[str]


def curves(runs: Sequence[Run], name: str) -> list[Panel]:
    """Loss and accuracies per epoch of one method's seeds; no panel where nothing trained. `name` makes ids unique."""
    trained = [run.history for run in runs if run.history]
    if not trained:
        return []
    kind = runs[0].settings["kind"]
    panels = []
    for title in ("loss", "accuracy"):
        columns = [c for c in trained[0] if (match := _ALIKE.match(c)) and match[1] == title]
        columns = [c for c in columns if all(c in history for history in trained)]
        if columns:
            panels.append(_curve_panel(title, columns, trained, kind, f"{name}-{title}"))
    return panels


def accuracies(table: Table) -> list[Panel]:
    """Every seed's accuracy as a dot and the mean as a bar, one panel per protocol."""
    return [_accuracy_panel(table, protocol) for protocol in table.protocols]


def series_label(column: str, kind: str) -> str:
    """A column of the history in words."""
    pairs = {
        "accuracy": "all pairs",
        "accuracy_positive": "two views of one picture",
        "accuracy_negative": "views of two pictures",
    }
    if kind == "relational" and column in pairs:
        return pairs[column]
    return {"accuracy": "training pictures"}.get(column, column.replace("_", " "))


def _curve_panel(title: str, columns: list[str], trained: list[dict[str, list[float]]], kind: str, name: str) -> Panel:
    scale = 100 if title == "accuracy" else 1
    spoken = []
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _panel(2.5)
        for position, column in enumerate(columns):
            colour = _SERIES[position % len(_SERIES)]
            seeds = [dict(zip(history["epoch"], history[column], strict=True)) for history in trained]
            epochs = [epoch for epoch in seeds[0] if all(epoch in seed for seed in seeds)]
            for seed in seeds if len(seeds) > 1 else ():
                axes.plot(list(seed), [scale * value for value in seed.values()], color=colour, lw=0.8, alpha=0.45)
            means = [scale * sum(seed[epoch] for seed in seeds) / len(seeds) for epoch in epochs]
            marker = "o" if len(epochs) <= _MARKED_EPOCHS else None
            axes.plot(epochs, means, color=colour, lw=1.8, marker=marker, ms=3.2)
            if means:
                spoken.append(f"{series_label(column, kind)} from {means[0]:.4g} to {means[-1]:.4g}")
        _frame_curves(axes, title)
        unit = "Accuracy in percent" if title == "accuracy" else "Loss"
        svg = _svg(figure, name, f"{unit} per epoch, mean over seeds: {', '.join(spoken)}.")
    labels = [series_label(column, kind) for column in columns]
    return Panel("Accuracy in training, %" if title == "accuracy" else "Loss", svg, labels if len(labels) > 1 else [])


def _frame_curves(axes: Axes, title: str) -> None:
    """Accuracies share one scale, so that methods compare by eye; losses do not compare, and keep their own."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    if title == "accuracy":
        axes.set_ylim(0, 100)


def _accuracy_panel(table: Table, protocol: str) -> Panel:
    name = f"accuracy-{table.name}-{protocol}"
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _panel(0.75 + 0.3 * len(table.rows))
        for place, row in enumerate(table.rows):
            colour = _INK if row.role else _SERIES[0]
            seeds = [100 * score.metrics["accuracy"] for score in row.cells[protocol].scores]
            mean = 100 * row.cells[protocol].accuracy.mean
            axes.plot(seeds, [place] * len(seeds), "o", color=colour, ms=4.5, alpha=0.45, mew=0)
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, lw=2, solid_capstyle="butt")
        axes.set_yticks(range(len(table.rows)), [row.method for row in table.rows])
        axes.set_ylim(len(table.rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        spoken = ", ".join(f"{row.method} {percent(row.cells[protocol].accuracy.mean)}" for row in table.rows)
        svg = _svg(figure, name, f"Accuracy in percent under {protocol}: {spoken}.")
    return Panel(f"{protocol}, %", svg, [])


def _panel(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.4, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, name: str, spoken: str) -> str:
    """The figure as an element of the page: its own ids, the page's colours, and `spoken` for those who hear it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for stand_in, colour in _COLOURS.items():
        body = body.replace(stand_in, colour)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(spoken)}">{body}'.rstrip()
