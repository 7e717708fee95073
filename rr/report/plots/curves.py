"""Curves through the epochs: every seed as a thin line, their mean as a thick one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullLocator

from rr.report.plots.svg import SERIES, Panel, draw

Point = tuple[float, float]
_MARKED = 12  # up to so many points, each gets a mark: one alone would draw no line at all


@dataclass(frozen=True)
class Line:
    """One curve: each seed's points (x, y) by epoch, at least one seed; `colour` is the number of a series (1 … 20)."""

    label: str
    colour: int
    seeds: list[dict[float, Point]]

    @property
    def mean(self) -> list[Point]:
        """The mean of the seeds' points, at the epochs that all have."""
        shared = [epoch for epoch in self.seeds[0] if all(epoch in seed for seed in self.seeds)]
        points = [[seed[epoch] for seed in self.seeds] for epoch in shared]
        return [(_mean([x for x, _ in several]), _mean([y for _, y in several])) for several in points]


def line_panel(
    name: str, title: str, spoken: str, lines: Sequence[Line], frame: Callable[[Axes], None], ends: bool = False
) -> Panel:
    """Draw `lines`; `frame` sets their axes, `spoken` says what they show. `ends` marks the first and last epoch."""

    def content(axes: Axes) -> None:
        for line in lines:
            colour = SERIES[line.colour - 1]
            for seed in line.seeds if len(line.seeds) > 1 else ():
                axes.plot(*_split(list(seed.values())), color=colour, lw=0.8, alpha=0.45)
            mean = line.mean
            marker = "o" if len(mean) <= _MARKED and not ends else None
            axes.plot(*_split(mean), color=colour, lw=1.8, marker=marker, ms=3.2)
            if ends and mean:
                axes.plot(*_split(mean[:1]), "o", color=colour, ms=5.5, mfc="none", mew=1.5)
                axes.plot(*_split(mean[-1:]), "o", color=colour, ms=6)
        frame(axes)

    said = [f"{line.label} from {line.mean[0][1]:.4g} to {line.mean[-1][1]:.4g}" for line in lines if line.mean]
    svg = draw(name, 2.5, f"{spoken}, mean over seeds: {', '.join(said)}.", content)
    return Panel(title, svg, {line.label: line.colour for line in lines} if len(lines) > 1 else {})


def epoch_axis(axes: Axes) -> None:
    """Whole epochs below, lines across."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")


def percent_axis(axes: Axes) -> None:
    """Epochs, and shares in percent on one scale, so that methods compare by eye."""
    epoch_axis(axes)
    axes.set_ylim(0, 100)


def log_ticks(axis: Axis, shown: Formatter) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each power, written without formulas."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axis.set_major_formatter(shown)
    axis.set_minor_locator(NullLocator())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _split(points: list[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
