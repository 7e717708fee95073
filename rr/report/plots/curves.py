"""Plots of curves: a thin line for each seed and a thick line for their mean."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator

from rr.report.plots.svg import SERIES, Panel, format_csv, render_svg

Point = tuple[float, float]
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
_MAX_MARKERS = 12  # curves of at most this many points have markers; without one, a single point would be invisible


@dataclass(frozen=True)
class Curve:
    """A curve with the points of at least one seed.

    Attributes:
        label: the name in the legend.
        color: the number of the color, from 1 to 20.
        seed_points: for each seed, its points (x, y) by epoch or by another key.
        style: the number of the line style, from 0; there are four.
        seeds: the seeds, in the order of `seed_points`; empty if there is only one set of points, and it has no seed.
    """

    label: str
    color: int
    seed_points: list[dict[float, Point]]
    style: int = 0
    seeds: Sequence[int] = ()

    @property
    def mean_points(self) -> list[Point]:
        """The mean at each epoch or other key, over the seeds that have a point there."""
        epochs = sorted({epoch for points in self.seed_points for epoch in points})
        points = [[seed[epoch] for seed in self.seed_points if epoch in seed] for epoch in epochs]
        return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in points]


def plot_curves(
    id_prefix: str,
    title: str,
    alt_text: str,
    curves: Sequence[Curve],
    format_axes: Callable[[Axes], None],
    mark_ends: bool = False,
    key_name: str = "epoch",
) -> Panel:
    """Return a plot of curves.

    Args:
        id_prefix: prefix that makes the ids of the plot unique on the page.
        title: the heading.
        alt_text: start of the description for screen readers. The first and the last mean of each curve are appended.
            Missing values (NaN) are left out.
        curves: the curves to plot.
        format_axes: function that sets scales, ticks and labels of the axes.
        mark_ends: whether to mark the first epoch with an open circle and the last with a filled one.
        key_name: name of the points' keys. Unless it is "epoch", the keys are the x values.
    """

    def plot(axes: Axes) -> None:
        for curve in curves:
            color, style = SERIES[curve.color - 1], LINE_STYLES[curve.style % len(LINE_STYLES)]
            for seed in curve.seed_points if len(curve.seed_points) > 1 else ():
                marker = "o" if len(seed) == 1 and not mark_ends else None
                axes.plot(*_split_xy(list(seed.values())), color=color, lw=0.8, alpha=0.45, marker=marker, ms=3.2)
            mean = curve.mean_points
            marker = "o" if len(mean) <= _MAX_MARKERS and not mark_ends else None
            axes.plot(*_split_xy(mean), color=color, lw=1.8, ls=style, marker=marker, ms=3.2)
            if mark_ends and mean:
                axes.plot(*_split_xy(mean[:1]), "o", color=color, ms=5.5, mfc="none", mew=1.5)
                axes.plot(*_split_xy(mean[-1:]), "o", color=color, ms=6)
        format_axes(axes)

    values = {curve.label: [y for _, y in curve.mean_points if not math.isnan(y)] for curve in curves}
    ranges = [f"{label} from {means[0]:.4g} to {means[-1]:.4g}" for label, means in values.items() if means]
    svg = render_svg(id_prefix, 2.5, f"{alt_text}, mean over seeds: {', '.join(ranges)}.", plot)
    csv = _format_curves_csv(curves, key_name)
    legend = {curve.label: (curve.color, curve.style % len(LINE_STYLES)) for curve in curves}
    return Panel(title, svg, id_prefix, csv, legend if len(curves) > 1 else {})


def _format_curves_csv(curves: Sequence[Curve], key_name: str) -> str:
    """Return the points as CSV: a row per key (epoch or x), with the x and y, or only the y, of each curve and seed."""
    header = [key_name]
    columns: list[dict[float, Any]] = []
    for curve in curves:
        for number, points in enumerate(curve.seed_points):
            name = f"{curve.label} (seed {curve.seeds[number]})" if curve.seeds else curve.label
            if key_name == "epoch" and any(x != epoch for epoch, (x, _) in points.items()):
                header.append(f"{name}, x")
                columns.append({epoch: x for epoch, (x, _) in points.items()})
            header.append(name)
            columns.append({key: "" if math.isnan(y) else y for key, (_, y) in points.items()})
    keys = sorted({key for column in columns for key in column})
    return format_csv(header, ([key, *(column.get(key, "") for column in columns)] for key in keys))


def format_epoch_axis(axes: Axes) -> None:
    """Label the x axis with integer epochs and add horizontal grid lines."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(axis="y")


def format_percent_axes(axes: Axes) -> None:
    """Show epochs on the x axis, and 0 to 100% on the y axis so that plots can be compared."""
    format_epoch_axis(axes)
    axes.set_ylim(0, 100)


def format_view_counts_axis(axes: Axes, ticks: Sequence[float]) -> None:
    """Show numbers of views K on a logarithmic x axis, and add horizontal grid lines."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("views per image, K")
    axes.grid(axis="y")


def set_log_ticks(axis: Axis, formatter: Formatter) -> None:
    """Place the ticks of a logarithmic axis at powers of ten and, on a short axis, at 2 and 5 times each power."""
    axis.set_major_locator(_LogTicks(numticks=6))
    axis.set_major_formatter(formatter)
    axis.set_minor_locator(NullLocator())


class _LogTicks(LogLocator):
    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the positions of the ticks between `vmin` and `vmax`."""
        is_short = 0 < vmin < vmax <= 100 * vmin
        self.set_params(subs=(1, 2, 5) if is_short else (1,))
        return super().tick_values(vmin, vmax)


def _split_xy(points: list[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
