"""Plots of a classifier's errors: confusion matrices and calibration curves."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from rr.report.formatting import shorten_middle
from rr.report.plots.curves import LINE_STYLES
from rr.report.plots.svg import INK, RULE, SERIES, Panel, format_csv, render_svg

MAX_NUMBERED_CLASSES = 12  # with more classes, the cells of the matrix are too small for numbers
_MIN_VISIBLE = 0.005  # smaller fractions, which round to 0%, are not drawn
_FONT_SIZE = 9  # points, which are at least 11 CSS pixels on the page
_NUM_SHADES = 20
_MAX_NAME_LENGTH = 14  # characters of a class name on an axis


def plot_confusion(id_prefix: str, title: str, class_names: Sequence[str], fractions: np.ndarray) -> Panel:
    """Return a plot of a confusion matrix.

    `fractions` is the fraction of each true class (row) that got each prediction (column), float64 (C, C).
    """
    num_classes = len(class_names)

    def plot(axes: Axes) -> None:
        cells: dict[tuple[str, int], list[tuple[int, int]]] = {}  # by color and shade
        for row, column in np.argwhere(fractions >= _MIN_VISIBLE).tolist():
            value = fractions[row, column]
            color = SERIES[0] if row == column else SERIES[1]
            cells.setdefault((color, round(_NUM_SHADES * value)), []).append((row, column))
            if num_classes <= MAX_NUMBERED_CLASSES:
                axes.text(column, row, f"{100 * value:.0f}", size=_FONT_SIZE, ha="center", va="center")
        # The cells are translucent, so that numbers in the page's text color stay legible. Cells of the same shade are
        # drawn as one path, because a path for each cell would make the page much larger.
        for (color, shade), positions in cells.items():
            squares = Path.make_compound_path(*(_cell_outline(row, column) for row, column in positions))
            alpha = 0.08 + 0.47 * shade / _NUM_SHADES
            axes.add_patch(PathPatch(squares, fc=color, alpha=alpha, lw=0, clip_on=False))
        labels = [_shorten_name(class_name) for class_name in class_names]
        axes.set_xticks(range(num_classes), labels, rotation=90, size=_FONT_SIZE)
        axes.set_yticks(range(num_classes), labels, size=_FONT_SIZE)
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, num_classes - 0.5)
        axes.set_ylim(num_classes - 0.5, -0.5)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_aspect("equal")

    diagonal = (f"{100 * value:.0f}" if np.isfinite(value) else "unknown" for value in np.diag(fractions))
    correct = ", ".join(f"{class_name} {value}" for class_name, value in zip(class_names, diagonal, strict=True))
    alt_text = f"Confusion matrix of {title}. Percent of each class classified correctly: {correct}."
    rows = zip(class_names, fractions.tolist(), strict=True)
    csv = format_csv(
        ("true \\ predicted", *class_names),
        ([name, *("" if math.isnan(value) else value for value in row)] for name, row in rows),
    )
    return Panel(title, render_svg(id_prefix, 3.4, alt_text, plot), id_prefix, csv)


def plot_calibration(
    id_prefix: str, title: str, points: Mapping[str, Sequence[tuple[float, float]]], colors: dict[str, int]
) -> Panel:
    """Return calibration curves: accuracy against confidence, with the diagonal of perfect calibration.

    `points` contains, for each method, the mean confidence and the accuracy of each bin, as fractions. `colors`
    contains the methods' color numbers, from 1.
    """
    legend = {method: (colors[method], (colors[method] - 1) % len(LINE_STYLES)) for method in points}

    def plot(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=(0, (4, 3)))
        for method, bins in points.items():
            color, style = legend[method]
            confidence, accuracy = ([100 * point[axis] for point in bins] for axis in (0, 1))
            axes.plot(confidence, accuracy, color=SERIES[color - 1], lw=1.8, ls=LINE_STYLES[style], marker="o", ms=3.2)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        axes.grid(color=RULE)

    values = {
        method: ", ".join(f"{100 * accuracy:.0f} at {100 * confidence:.0f}" for confidence, accuracy in bins)
        for method, bins in points.items()
    }
    described = "; ".join(f"{method}: {text}" for method, text in values.items())
    alt_text = f"Calibration of {title}: accuracy (%) at the mean confidence (%) of each bin. {described}."
    csv = format_csv(
        ("method", "confidence (%)", "accuracy (%)"),
        [
            (method, 100 * confidence, 100 * accuracy)
            for method, bins in points.items()
            for confidence, accuracy in bins
        ],
    )
    return Panel(title, render_svg(id_prefix, 2.7, alt_text, plot), id_prefix, csv, legend)


def _cell_outline(row: int, column: int) -> Path:
    left, top, right, bottom = column - 0.5, row - 0.5, column + 0.5, row + 0.5
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)


def _shorten_name(name: str) -> str:
    """Return a class name on one line, shortened in the middle to the maximum length."""
    return shorten_middle(" ".join(name.split()), _MAX_NAME_LENGTH)
