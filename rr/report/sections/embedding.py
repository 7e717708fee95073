"""Section `embedding`: metrics of the feature space, and a map of each method's first seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from rr.report.formatting import format_three_decimals
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.inputs.predictions import EmbeddingMap
from rr.report.plots.svg import RULE, SERIES, Panel, render_svg
from rr.report.tables import MetricColumn, ResultTable, group_by_method, result_table, split_by_protocol

_NUM_COLORS = len(SERIES)
_DOT_DIAMETER = 2.6  # points
_METRICS = ("silhouette", "alignment", "uniformity", "effective_rank")


@dataclass(frozen=True)
class EmbeddingTable:
    """The metrics and maps of one target under one embedding protocol.

    Attributes:
        table: the metrics.
        num_images: number of test images behind the metrics.
        legend: number of each class's color.
        has_gray: whether there are more classes than colors, so that some are gray.
        maps: a map of each method's first seed, and the file with the same map of the images themselves.
    """

    table: ResultTable
    num_images: int
    legend: dict[str, int]
    has_gray: bool
    maps: list[tuple[Panel, Path]]


def build_embedding(results: GridResults) -> list[EmbeddingTable]:
    """Return one table per dataset, backbone, target and embedding protocol."""
    tables = []
    for runs in split_by_protocol(results.evaluations_of_kind("embedding")):
        protocol = runs[0].paths.protocol
        # No value is marked as best, because features that have collapsed to a point have the best alignment.
        columns = [
            MetricColumn(m.replace("_", " "), protocol, m, format_three_decimals, marks_best=False) for m in _METRICS
        ]
        first_seeds = [seeds[0] for seeds in group_by_method(runs).values()]
        maps = [(run, run.per_image) for run in first_seeds if isinstance(run.per_image, EmbeddingMap)]
        class_names = maps[0][1].class_names
        tables.append(
            EmbeddingTable(
                result_table(runs, columns),
                len(maps[0][1].labels),
                {name: color for color, name in enumerate(class_names[:_NUM_COLORS], 1)},
                len(class_names) > _NUM_COLORS,
                [(_plot_map(run, embedding), run.paths.examples) for run, embedding in maps],
            )
        )
    return tables


def _plot_map(evaluation: EvaluationResult, embedding: EmbeddingMap) -> Panel:
    run = evaluation.paths.pretraining
    name = f"map-{run.dataset}-{run.backbone}-{evaluation.paths.target}-{evaluation.paths.protocol}-{run.method}"

    def plot(axes: Axes) -> None:
        for label in reversed(range(len(embedding.class_names))):  # gray classes first, below those with a color
            color = SERIES[label] if label < _NUM_COLORS else RULE
            _plot_dots(axes, embedding.coordinates[embedding.labels == label], color)
        low, high = embedding.coordinates.min(0), embedding.coordinates.max(0)
        margin = 0.03 * max(*(high - low), 1e-6)
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_aspect("equal")
        axes.set_axis_off()

    title = f"{run.method}, seed {run.seed}"
    alt_text = f"Map of {len(embedding.labels)} test images of {len(embedding.class_names)} classes: {title}."
    return Panel(title, render_svg(name, 3.4, alt_text, plot))


def _plot_dots(axes: Axes, coordinates: np.ndarray, color: str) -> None:
    """Plot dots as a single path of lines of length zero with round ends.

    Such a path takes a fifth of the bytes of separate markers.
    """
    if len(coordinates):
        codes = np.tile([Outline.MOVETO, Outline.LINETO], len(coordinates))
        dots = Outline(np.repeat(coordinates, 2, axis=0), codes)
        dots.should_simplify = False  # simplification would drop all lines, because their length is zero
        axes.add_patch(PathPatch(dots, ec=color, fc="none", lw=_DOT_DIAMETER, alpha=0.8, capstyle="round"))
