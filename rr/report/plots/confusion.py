"""Plots of a classifier's errors: confusion matrices and calibration curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from rr.report.plots.svg import INK, RULE, SERIES, Panel, format_csv, render_svg

MAX_NUMBERED_CLASSES = 12  # with more classes the cells of the matrix are too small for numbers
_MIN_VISIBLE = 0.005  # cells with smaller fractions are left out, because they would be invisible
_FONT_SIZE = 9  # points, which are at least 11 CSS pixels on the page
_MAX_NAME_LENGTH = 14  # characters of a class name on an axis


def plot_confusion(id_prefix: str, title: str, class_names: Sequence[str], fractions: np.ndarray) -> Panel:
    """Return a plot of a confusion matrix.

    `fractions` is the fraction of each true class (row) that got each prediction (column), float64 (C, C).
    """
    num_classes = len(class_names)

    def plot(axes: Axes) -> None:
        for row, column in np.argwhere(fractions >= _MIN_VISIBLE).tolist():
            value = fractions[row, column]
            color = SERIES[0] if row == column else SERIES[1]
            # The cells are translucent, so that numbers in the text color of the page stay legible.
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=color, alpha=0.08 + 0.47 * value, lw=0))
            if num_classes <= MAX_NUMBERED_CLASSES:
                axes.text(column, row, f"{100 * value:.0f}", size=_FONT_SIZE, ha="center", va="center")
        labels = [_shorten(class_name) for class_name in class_names]
        axes.set_xticks(range(num_classes), labels, rotation=90, size=_FONT_SIZE)
        axes.set_yticks(range(num_classes), labels, size=_FONT_SIZE)
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, num_classes - 0.5)
        axes.set_ylim(num_classes - 0.5, -0.5)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_aspect("equal")

    correct = ", ".join(f"{class_name} {100 * fractions[i, i]:.0f}" for i, class_name in enumerate(class_names))
    alt_text = f"Confusion matrix of {title}. Percent of each class classified correctly: {correct}."
    rows = zip(class_names, fractions.tolist(), strict=True)
    csv = format_csv(("true \\ predicted", *class_names), ([name, *row] for name, row in rows))
    return Panel(title, render_svg(id_prefix, 3.4, alt_text, plot), id_prefix, csv)


def plot_calibration(id_prefix: str, title: str, points: Sequence[tuple[float, float]], color: int) -> Panel:
    """Return a calibration curve: accuracy against confidence, with the diagonal of perfect calibration.

    `points` are the mean confidence and the accuracy of each bin, as fractions.
    """

    def plot(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=(0, (4, 3)))
        confidence, accuracy = ([100 * point[axis] for point in points] for axis in (0, 1))
        axes.plot(confidence, accuracy, color=SERIES[color - 1], lw=1.8, marker="o", ms=3.2)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        axes.grid(color=RULE)

    values = ", ".join(f"{100 * accuracy:.0f} at {100 * confidence:.0f}" for confidence, accuracy in points)
    alt_text = f"Accuracy of {title} in percent at its mean confidence: {values}."
    csv = format_csv(("confidence", "accuracy"), points)
    return Panel(title, render_svg(id_prefix, 2.7, alt_text, plot), id_prefix, csv)


def _shorten(name: str) -> str:
    """Return a class name on one line, truncated to the maximum length."""
    line = " ".join(name.split())
    return line if len(line) <= _MAX_NAME_LENGTH else f"{line[: _MAX_NAME_LENGTH - 1]}…"
