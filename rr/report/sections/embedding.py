"""Section `embedding`: metrics of the feature space, and a map and examples of each method's first seed."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from rr.report.formatting import format_three_decimals, format_two_decimals
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.inputs.predictions import EmbeddingMap
from rr.report.plots.image import ImagePanel, image_panel
from rr.report.plots.svg import RULE, SERIES, Panel, render_svg
from rr.report.tables import MetricColumn, ResultTable, group_by_method, result_table, split_by_protocol

_NUM_COLORS = len(SERIES)
_DOT_DIAMETER = 2.6  # points
_TITLES = {
    "silhouette": "silhouette",
    "rankme": "RankMe",
    "effective_rank": "effective rank",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
_MIN_RANKME = 2.0
_NOT_SELF_SUPERVISED = ("random", "supervised", "imported")
_CAPTION = (
    "From top to bottom: test images, each followed by the most similar training images; the test images nearest to "
    "the center of each cluster; outliers; and the map with the images."
)


@dataclass(frozen=True)
class EmbeddingTable:
    """The metrics and maps of one target under one embedding protocol.

    Attributes:
        table: the metrics.
        num_images: number of test images behind the metrics.
        groups: what the colors of the maps stand for: "class" or, without labels, "cluster".
        legend: number of each group's color.
        has_gray: whether there are more groups than colors, so that some are gray.
        maps: a map of each method's first seed.
        examples: similar images, clusters and outliers of each method's first seed.
    """

    table: ResultTable
    num_images: int
    groups: str
    legend: dict[str, int]
    has_gray: bool
    maps: list[Panel]
    examples: list[ImagePanel]


def build_embedding(results: GridResults) -> list[EmbeddingTable]:
    """Return one table per dataset, backbone, target and embedding protocol."""
    tables = []
    for runs in split_by_protocol(results.evaluations_of_kind("embedding")):
        protocol = runs[0].paths.protocol
        # No value is marked as best, because features that have collapsed to a point have the best alignment.
        columns = [
            MetricColumn(title, protocol, metric, format_three_decimals, marks_best=False)
            for metric, title in _TITLES.items()
            if any(metric in run.metrics for run in runs)
        ]
        first_seeds = [seeds[0] for seeds in group_by_method(runs).values()]
        maps = [(run, run.per_image) for run in first_seeds if isinstance(run.per_image, EmbeddingMap)]
        names = _group_names([embedding for _, embedding in maps])
        tables.append(
            EmbeddingTable(
                result_table(runs, columns),
                len(maps[0][1].labels),
                "class" if maps[0][1].class_names else "cluster",
                {name: color for color, name in enumerate(names[:_NUM_COLORS], 1)},
                len(names) > _NUM_COLORS,
                [_plot_map(run, embedding, names) for run, embedding in maps],
                [image_panel(_title(run), _CAPTION, run.examples_png, run.paths.examples, 1) for run, _ in maps],
            )
        )
    return tables


def collapse_warnings(results: GridResults) -> list[str]:
    """Return a warning for each self-supervised run whose features use fewer directions than those of random weights.

    If the grid has no random weights, the limit is a RankMe of 2.
    """
    warnings = []
    for runs in split_by_protocol(results.evaluations_of_kind("embedding")):
        bounds = [run.metrics["rankme"] for run in runs if run.pretraining.settings["kind"] == "random"]
        limit = min(bounds, default=_MIN_RANKME)
        for run in runs:
            rank = run.metrics["rankme"]
            if rank < limit and run.pretraining.settings["kind"] not in _NOT_SELF_SUPERVISED:
                reason = f"below {'that of random weights, ' if bounds else ''}{format_two_decimals(limit)}"
                warnings.append(
                    f"The features of {_title(run)}, may have collapsed: for {run.paths.target}, RankMe is "
                    f"{format_two_decimals(rank)}, {reason}. Similar images may then have nothing in common: lower "
                    "learning_rate or raise batch_size of the method in params.yaml."
                )
    return warnings


def _group_names(maps: list[EmbeddingMap]) -> list[str]:
    """Return the names of the classes or, without labels, of the clusters."""
    if maps[0].class_names:
        return maps[0].class_names
    return [f"cluster {number}" for number in range(1, max(int(m.clusters.max()) for m in maps) + 2)]


def _title(evaluation: EvaluationResult) -> str:
    run = evaluation.paths.pretraining
    return f"{run.method}, seed {run.seed}"


def _plot_map(evaluation: EvaluationResult, embedding: EmbeddingMap, names: list[str]) -> Panel:
    run = evaluation.paths.pretraining
    groups = embedding.labels if embedding.class_names else embedding.clusters
    name = f"map-{run.dataset}-{run.backbone}-{evaluation.paths.target}-{evaluation.paths.protocol}-{run.method}"

    def plot(axes: Axes) -> None:
        for group in (-1, *reversed(range(len(names)))):  # gray groups and unlabeled images below those with a color
            color = SERIES[group] if 0 <= group < _NUM_COLORS else RULE
            _plot_dots(axes, embedding.coordinates[groups == group], color)
        low, high = embedding.coordinates.min(0), embedding.coordinates.max(0)
        margin = 0.03 * max(*(high - low), 1e-6)
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_aspect("equal")
        axes.set_axis_off()

    title = _title(evaluation)
    what = f"{len(names)} {'classes' if embedding.class_names else 'clusters'}"
    alt_text = f"Map of {len(embedding.labels)} test images of {what}: {title}."
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
