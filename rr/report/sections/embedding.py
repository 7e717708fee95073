"""The `embedding` section: metrics of the feature space, interactive maps, and examples of each method's first seed."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rr.data.printable_names import printable
from rr.params import CLASSIFICATION_PROTOCOLS
from rr.report.formatting import format_three_decimals, format_two_decimals
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.inputs.predictions import EmbeddingMap, Predictions
from rr.report.method_roles import Role
from rr.report.plots.image import ByteBudget, ImagePanel, image_panel
from rr.report.plots.image_map import ImageMap, MapLayer, Sprite, make_sprite
from rr.report.result_tables import (
    MetricColumn,
    ResultTable,
    group_by_method,
    make_example_panels,
    result_table,
    split_by_target_and_protocol,
)

_TITLES = {
    "silhouette": "silhouette",
    "rankme": "RankMe",
    "effective_rank": "effective rank",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
_MIN_RANKME = 2.0
_MAX_EXAMPLE_BYTES, _MAX_MAP_BYTES = 200_000, 800_000  # on the page
# The roles that are checked for collapse. Methods that use all labels are not checked, because well-separated classes
# may need only a few directions. Random and imported weights are not checked either, because no run trains them.
_MAY_COLLAPSE = (Role.SELF_SUPERVISED, Role.SEMI_SUPERVISED, Role.INITIAL_WEIGHTS)
_CAPTION = (
    "Each image shows, from top to bottom: test images, each followed by the most similar training images; the test "
    "images nearest to the center of each cluster; outliers; and the map, drawn with the images."
)


@dataclass(frozen=True)
class EmbeddingTable:
    """The metrics and maps of one target under one embedding protocol.

    Attributes:
        table: the metrics.
        num_images: number of test images behind the metrics.
        has_classes: whether the colors of the maps stand for classes. Without labels, they stand for clusters.
        maps: a map with a layer for each method's first seed or, without labels, a map for each of these seeds. If the
            page would become too large with all maps, the maps of later tables are left out.
        examples: similar images, clusters and outliers of each method's first seed.
        sprite: the thumbnails of the maps, or None if an earlier table has the same thumbnails or there are no maps.
    """

    table: ResultTable
    num_images: int
    has_classes: bool
    maps: list[ImageMap]
    examples: list[ImagePanel]
    sprite: Sprite | None


def build_embedding(results: GridResults) -> list[EmbeddingTable]:
    """Return one table per dataset, backbone, target and embedding protocol."""
    tables: list[EmbeddingTable] = []
    example_budget, map_budget = ByteBudget(_MAX_EXAMPLE_BYTES), ByteBudget(_MAX_MAP_BYTES)
    sprites: dict[tuple[bytes, ...], Sprite] = {}
    on_page: set[tuple[bytes, ...]] = set()  # the thumbnails whose sprite is on the page
    for runs in split_by_target_and_protocol(results.evaluations_of_kind("embedding")):
        table = result_table(runs, _metric_columns(runs))
        first_seeds = [seeds[0] for seeds in group_by_method(runs).values()]
        embeddings = [(run, run.per_image) for run in first_seeds if isinstance(run.per_image, EmbeddingMap)]
        first = embeddings[0][1]
        thumbnails = tuple(first.thumbnails)
        if thumbnails not in sprites:
            images = [np.asarray(Image.open(io.BytesIO(webp)).convert("RGB")) for webp in thumbnails]
            sprites[thumbnails] = make_sprite(images)
        maps = _make_maps(f"map-{table.name}-{runs[0].paths.protocol}", embeddings, sprites[thumbnails], results)
        examples = make_example_panels(
            first_seeds,
            lambda run: image_panel(_title(run), _CAPTION, run.examples_png, run.paths.examples, example_budget, 1),
        )
        sprite = None if thumbnails in on_page else sprites[thumbnails]
        num_bytes = sum(len(image_map.json) for image_map in maps) + (len(sprite.json) if sprite else 0)
        if map_budget.take(num_bytes):
            on_page.add(thumbnails)
        else:
            maps, sprite = [], None
        tables.append(EmbeddingTable(table, len(first.labels), bool(first.class_names), maps, examples, sprite))
    return tables


def _metric_columns(runs: Sequence[EvaluationResult]) -> list[MetricColumn]:
    # No value is marked as best, because features that have collapsed to a point have the best alignment.
    return [
        MetricColumn(title, runs[0].paths.protocol, metric, format_three_decimals, marks_best=False)
        for metric, title in _TITLES.items()
        if any(metric in run.metrics for run in runs)
    ]


def _make_maps(
    name: str, embeddings: list[tuple[EvaluationResult, EmbeddingMap]], sprite: Sprite, results: GridResults
) -> list[ImageMap]:
    """Return a map with a layer for each run or, if the images have no labels, a map for each run."""
    first = embeddings[0][1]
    # The sample of images depends on the seed, so a method with a different first seed cannot share the maps.
    shared = [(run, embedding) for run, embedding in embeddings if np.array_equal(embedding.index, first.index)]
    classifier = _find_classification_protocol(results, [run for run, _ in shared])
    # All methods have the same classes and therefore share a map. Their clusters differ.
    groups = [shared] if first.class_names else [[pair] for pair in shared]
    return [_make_map(f"{name}-{number}", group, sprite, results, classifier) for number, group in enumerate(groups, 1)]


def collapse_warnings(results: GridResults) -> list[str]:
    """Return a warning for each run whose features use fewer directions than those of random weights.

    Imported weights, and runs that used all labels, are not checked. If the grid has no random weights, the limit is a
    RankMe of 2.
    """
    warnings = []
    for runs in split_by_target_and_protocol(results.evaluations_of_kind("embedding")):
        bounds = [run.metrics["rankme"] for run in runs if run.pretraining.role == Role.LOWER_BOUND]
        limit = min(bounds, default=_MIN_RANKME)
        for run in runs:
            rank = run.metrics["rankme"]
            if rank < limit and run.pretraining.role in _MAY_COLLAPSE:
                limit_text = format_two_decimals(limit)
                reason = f"with random weights ({limit_text})" if bounds else limit_text
                warnings.append(
                    f"The features of {_title(run)}, may have collapsed: for {run.paths.target}, RankMe is "
                    f"{format_two_decimals(rank)}, less than {reason}. With collapsed features, similar images may "
                    "have nothing in common. Lower learning_rate or raise batch_size for the method in params.yaml."
                )
    return warnings


def _make_map(
    name: str,
    group: list[tuple[EvaluationResult, EmbeddingMap]],
    sprite: Sprite,
    results: GridResults,
    classifier: str | None,
) -> ImageMap:
    """Return a map with a layer for each run in a group. The colors stand for classes or clusters."""
    run, embedding = group[0]
    names, labels = embedding.class_names, embedding.labels
    if not names:
        labels = embedding.clusters
        names = [f"cluster {number}" for number in range(1, int(labels.max()) + 2)]
    return ImageMap(
        name,
        names,
        labels,
        _image_names(run.paths.target, embedding.index.tolist(), results.image_names.get(run.paths.target, [])),
        sprite,
        [_make_layer(run, results, classifier) for run, _ in group],
        f"({classifier})" if classifier else "",
    )


def _image_names(target: str, index: list[int], names: list[str]) -> list[str]:
    """Return the names that the images have in the raw file, or their numbers if the file is absent."""
    return [printable(names[number]) if number < len(names) else f"image {number} of {target}" for number in index]


def _find_classification_protocol(results: GridResults, runs: list[EvaluationResult]) -> str | None:
    """Return the first classification protocol that evaluated a backbone from `runs` on their target, or None."""
    evaluated = {(run.paths.pretraining, run.paths.target) for run in runs}
    for run in results.evaluations_of_kind(*CLASSIFICATION_PROTOCOLS):
        if (run.paths.pretraining, run.paths.target) in evaluated:
            return run.paths.protocol
    return None


def _make_layer(run: EvaluationResult, results: GridResults, classifier: str | None) -> MapLayer:
    embedding = run.per_image
    assert isinstance(embedding, EmbeddingMap)
    predictions = None
    for other in results.evaluations:
        same_backbone = (other.paths.pretraining, other.paths.target) == (run.paths.pretraining, run.paths.target)
        if same_backbone and other.paths.protocol == classifier and isinstance(other.per_image, Predictions):
            classes = dict(zip(other.per_image.index.tolist(), other.per_image.predictions.tolist(), strict=True))
            predictions = np.array([classes.get(index, -1) for index in embedding.index.tolist()])
    return MapLayer(_title(run), embedding.coordinates, embedding.neighbors, predictions)


def _title(run: EvaluationResult) -> str:
    return f"{run.paths.pretraining.method}, seed {run.paths.pretraining.seed}"
