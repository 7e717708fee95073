"""Pictures of the audit: the matrix of confusions, and accuracy against confidence."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from rr.report.plots.svg import INK, RULE, SERIES, Panel, draw

_FAINTEST = 0.005  # a smaller share would be drawn as nothing
NUMBERED = 12  # classes up to which a cell has room for its number
_LONGEST = 14  # letters of a class's name on an axis


def confusion_panel(name: str, title: str, class_names: Sequence[str], shares: np.ndarray) -> Panel:
    """Draw float64 (C, C) `shares` of each row: the true class to the left, the prediction below."""
    size = len(class_names)

    def content(axes: Axes) -> None:
        for row, column in np.argwhere(shares >= _FAINTEST).tolist():
            share = shares[row, column]
            colour = SERIES[0] if row == column else SERIES[1]
            # Never opaque: the number on it is written in the page's ink.
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colour, alpha=0.08 + 0.47 * share, lw=0))
            if size <= NUMBERED:
                axes.text(column, row, f"{100 * share:.0f}", size=7, ha="center", va="center")
        shown = [short(one) for one in class_names]
        axes.set_xticks(range(size), shown, rotation=90, size=7)
        axes.set_yticks(range(size), shown, size=7)
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_aspect("equal")

    right = ", ".join(f"{one} {100 * shares[place, place]:.0f}" for place, one in enumerate(class_names))
    spoken = f"Confusions of {title}. Percent of each class classified correctly: {right}."
    return Panel(title, draw(name, 3.4, spoken, content))


def reliability_panel(name: str, title: str, points: Sequence[tuple[float, float]]) -> Panel:
    """Draw accuracy against mean confidence of the bins, both shares, and the diagonal where they agree."""

    def content(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=(0, (4, 3)))
        confidence, accuracy = ([100 * point[side] for point in points] for side in (0, 1))
        axes.plot(confidence, accuracy, color=SERIES[0], lw=1.8, marker="o", ms=3.2)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        axes.grid(color=RULE)

    said = ", ".join(f"{100 * accuracy:.0f} at {100 * confidence:.0f}" for confidence, accuracy in points)
    spoken = f"Accuracy of {title} in percent at its mean confidence: {said}."
    return Panel(title, draw(name, 2.7, spoken, content))


def short(name: str) -> str:
    """A class's name for an axis or a legend: one line, cut where it is long."""
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
