"""Curves of the training and accuracies of the table, as pictures."""

import re
from collections.abc import Sequence

from rr.report.inputs.collect import Run
from rr.report.plots.curves import Line, epoch_axis, line_panel, percent_axis
from rr.report.plots.svg import Panel

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
