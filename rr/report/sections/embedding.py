"""The shape of the space of representations: its figures, and a map of the first seed of every method."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from rr.report.inputs.collect import Collected, Score
from rr.report.inputs.predictions import Plane
from rr.report.plots.svg import RULE, SERIES, Panel, draw
from rr.report.tables import Column, Table, first_seeds, places, plain, table, unique

_COLOURED = len(SERIES)
_DOT = 2.6  # points across


@dataclass(frozen=True)
class Map:
    """The map of one method, and the file with its pictures laid at their places."""

    panel: Panel
    file: Path


@dataclass(frozen=True)
class Space:
    """One target under one embedding protocol; `maps` are of the first seed of every method."""

    table: Table
    images: int
    legend: dict[str, int]
    grey: bool  # whether there are more classes than colours
    maps: list[Map]


def spaces(grid: Collected) -> list[Space]:
    """One per dataset × backbone → target × protocol; the order is the grid's."""
    found = []
    for place, scores in places(grid.of_kind("embedding")).items():
        for protocol in unique(score.cell.protocol for score in scores):
            here = [score for score in scores if score.cell.protocol == protocol]
            maps = [(score, score.found) for score in first_seeds(here) if isinstance(score.found, Plane)]
            names = maps[0][1].class_names
            found.append(
                Space(
                    table(grid, place, here, _columns(protocol)),
                    len(maps[0][1].labels),
                    {name: colour for colour, name in enumerate(names[:_COLOURED], 1)},
                    len(names) > _COLOURED,
                    [_map(score, plane) for score, plane in maps],
                )
            )
    return found


def _columns(protocol: str) -> list[Column]:
    """Nothing is compared: a space that has collapsed to a point has the best alignment."""
    names = ("silhouette", "alignment", "uniformity", "effective_rank")
    return [Column(name.replace("_", " "), protocol, name, shown=plain, compared=False) for name in names]


def _map(score: Score, plane: Plane) -> Map:
    run = score.cell.pretraining
    name = f"map-{run.dataset}-{run.backbone}-{score.cell.target}-{score.cell.protocol}-{run.method}"

    def content(axes: Axes) -> None:
        classes = range(len(plane.class_names))
        for label in reversed(classes):  # those with a colour last, above the grey ones
            colour = SERIES[label] if label < _COLOURED else RULE
            _dots(axes, plane.places[plane.labels == label], colour)
        low, high = plane.places.min(0), plane.places.max(0)
        margin = 0.03 * max(*(high - low), 1e-6)
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_aspect("equal")
        axes.set_axis_off()

    title = f"{run.method}, seed {run.seed}"
    spoken = f"Map of {len(plane.labels)} test pictures of {len(plane.class_names)} classes: {title}."
    return Map(Panel(title, draw(name, 3.4, spoken, content)), score.cell.examples)


def _dots(axes: Axes, places: np.ndarray, colour: str) -> None:
    """One path for a whole class: lines of no length with round ends, a fifth of the bytes of as many markers."""
    if len(places):
        dots = Outline(np.repeat(places, 2, axis=0), np.tile([Outline.MOVETO, Outline.LINETO], len(places)))
        dots.should_simplify = False  # it would leave out every line, as none has a length
        axes.add_patch(PathPatch(dots, ec=colour, fc="none", lw=_DOT, alpha=0.8, capstyle="round"))
