"""Section `embedding`: metrics of the feature space, and an interactive map of each method's first seed."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rr.report.formatting import format_three_decimals
from rr.report.inputs.collect import CLASSIFICATION, EvaluationResult, GridResults
from rr.report.inputs.predictions import EmbeddingMap, Predictions
from rr.report.plots.image_map import ImageMap, MapLayer, Sprite, make_sprite
from rr.report.tables import MetricColumn, ResultTable, group_by_method, result_table, split_by_protocol

_METRICS = ("silhouette", "alignment", "uniformity", "effective_rank")


@dataclass(frozen=True)
class EmbeddingTable:
    """The metrics and maps of one target under one embedding protocol.

    Attributes:
        table: the metrics.
        num_images: number of test images behind the metrics.
        map: a map with a layer for each method's first seed.
        files: by the title of each layer, the file with the same map of the images themselves.
        sprite: the thumbnails of the map, or None if an earlier table on the page has the same.
    """

    table: ResultTable
    num_images: int
    map: ImageMap
    files: dict[str, Path]
    sprite: Sprite | None


def build_embedding(results: GridResults) -> list[EmbeddingTable]:
    """Return one table per dataset, backbone, target and embedding protocol."""
    tables: list[EmbeddingTable] = []
    sprites: dict[tuple[bytes, ...], Sprite] = {}
    for runs in split_by_protocol(results.evaluations_of_kind("embedding")):
        protocol = runs[0].paths.protocol
        # No value is marked as best, because features that have collapsed to a point have the best alignment.
        columns = [
            MetricColumn(m.replace("_", " "), protocol, m, format_three_decimals, marks_best=False) for m in _METRICS
        ]
        table = result_table(runs, columns)
        first_seeds = [seeds[0] for seeds in group_by_method(runs).values()]
        first = first_seeds[0].per_image
        assert isinstance(first, EmbeddingMap)
        # The sample of images depends on the seed, so methods whose first seed is another one cannot share the map.
        shared = [run for run in first_seeds if _has_same_images(run, first)]
        classifier = _find_classifier(results, shared)
        key = tuple(first.thumbnails)
        is_new = key not in sprites
        if is_new:
            sprites[key] = make_sprite([np.asarray(Image.open(io.BytesIO(webp)).convert("RGB")) for webp in key])
        image_map = ImageMap(
            f"map-{table.name}-{protocol}",
            first.class_names,
            first.labels,
            [f"image {index} of {table.target}" for index in first.index],
            sprites[key],
            [_make_layer(run, results, classifier) for run in shared],
            f"by {classifier}" if classifier else "",
        )
        files = {_title(run): run.paths.examples for run in first_seeds}
        tables.append(EmbeddingTable(table, len(first.labels), image_map, files, sprites[key] if is_new else None))
    return tables


def _has_same_images(run: EvaluationResult, first: EmbeddingMap) -> bool:
    return isinstance(run.per_image, EmbeddingMap) and np.array_equal(run.per_image.index, first.index)


def _find_classifier(results: GridResults, runs: list[EvaluationResult]) -> str | None:
    """Return the first classification protocol that has evaluated a backbone of `runs` on their target, or None."""
    evaluated = {(run.paths.pretraining, run.paths.target) for run in runs}
    for run in results.evaluations_of_kind(*CLASSIFICATION):
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
