"""Curves of the training and accuracies of the table, as pictures."""

import re
from collections.abc import Sequence

from matplotlib.axes import Axes

from rr.report.collect import Run
from rr.report.drawing import INK, SERIES, Panel, draw
from rr.report.lines import Line, epoch_axis, line_panel, percent_axis
from rr.report.tables import Table, percent

_ALIKE = re.compile(r"^(loss|accuracy)(_|$)")


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
            labels = {column: series_label(column, kind) for column in columns}
            panels.append(_training_panel(title, labels, trained, f"{name}-{title}"))
    return panels


def accuracies(table: Table) -> list[Panel]:
    """Every seed's accuracy as a dot and the mean as a bar, one panel per protocol."""
    return [_accuracy_panel(table, protocol) for protocol in table.titles]


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


def _training_panel(title: str, labels: dict[str, str], trained: list[dict[str, list[float]]], name: str) -> Panel:
    """Accuracies share one scale; losses do not compare between methods, and keep their own."""
    scale = 100 if title == "accuracy" else 1
    lines = []
    for colour, (column, label) in enumerate(labels.items(), 1):
        seeds = [{e: (e, scale * y) for e, y in zip(h["epoch"], h[column], strict=True)} for h in trained]
        lines.append(Line(label, colour, seeds))
    if title == "accuracy":
        return line_panel(name, "Accuracy in training, %", "Accuracy in percent per epoch", lines, percent_axis)
    return line_panel(name, "Loss", "Loss per epoch", lines, epoch_axis)


def _accuracy_panel(table: Table, protocol: str) -> Panel:
    rows = [row for row in table.rows if protocol in row.cells]

    def content(axes: Axes) -> None:
        for place, row in enumerate(rows):
            colour = INK if row.role else SERIES[0]
            seeds = [100 * score.metrics["accuracy"] for score in row.cells[protocol].scores]
            mean = 100 * row.cells[protocol].value.mean
            axes.plot(seeds, [place] * len(seeds), "o", color=colour, ms=4.5, alpha=0.45, mew=0)
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, lw=2, solid_capstyle="butt")
        axes.set_yticks(range(len(rows)), [row.method for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    spoken = ", ".join(f"{row.method} {percent(row.cells[protocol].value.mean)}" for row in rows)
    name = f"accuracy-{table.name}-{protocol}"
    svg = draw(name, 0.75 + 0.3 * len(rows), f"Accuracy in percent under {protocol}: {spoken}.", content)
    return Panel(f"{protocol}, %", svg)
