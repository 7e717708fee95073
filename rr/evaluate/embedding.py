"""Analyze the embedding space without labels: a map, clusters, neighbors, outliers, and metrics."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from rr.data.image_grid import make_image_grid, render_text, shrink_tiles, vstack_images
from rr.data.view_loader import ViewLoader
from rr.evaluate.feature_extraction import batch_size_for
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.relation_head import MIN_CALIBRATION_IMAGES, measure_calibration
from rr.evaluate.representation_metrics import alignment, effective_rank, rankme, uniformity
from rr.evaluate.result import ProtocolResult
from rr.evaluate.similarity import find_nearest, nearest_other_images
from rr.params import EmbeddingConfig

NUM_MAP_NEIGHBORS = 5  # neighbors of an image that the map in the report shows
_MAP_SIZE = 896  # pixels, at most the width of the report
_NUM_NEIGHBORS = 10  # training images per test image in the table and in the example image
_NUM_QUERIES, _NUM_OUTLIERS = 8, 24
_EXAMPLE_COLUMNS = _NUM_NEIGHBORS + 2
_THUMBNAIL_SIZE = 48  # pixels


@dataclass(frozen=True)
class _Analysis:
    """The map, the clusters and the most similar training images of R test images.

    Attributes:
        coordinates: x and y of each image on the map, float32 (R, 2).
        clusters: the cluster of each image, int64 (R,).
        center_distances: the distance of each image to the center of its cluster, float (R,).
        train_neighbors: the rows of the most similar training images, int64 (R, K).
        similarities: their cosine similarities, float32 (R, K).
        outlier_scores: 1 minus the mean of these similarities, float32 (R,).
    """

    coordinates: np.ndarray
    clusters: np.ndarray
    center_distances: np.ndarray
    train_neighbors: np.ndarray
    similarities: np.ndarray
    outlier_scores: np.ndarray


def evaluate(inputs: EvaluationInputs, config: EmbeddingConfig) -> ProtocolResult:
    """Compute a t-SNE map, clusters, outliers and metrics from the features of `config.images` sampled test images.

    All distances are between features scaled to norm 1. The metrics are `rankme` (Garrido et al. 2023), the `alignment`
    of two augmented views and the `uniformity` (Wang and Isola 2020), the `effective_rank`, the number of `images` and,
    if the labels allow it, the `silhouette` of the classes. The table contains, for each image:

    - its coordinates `x` and `y` on the map (the perplexity is at most a third of the number of other images);
    - its `cluster` from 0 to `config.clusters` − 1 (k-means), numbered in descending order of size;
    - the `train_neighbors` (rows in the raw file) and `similarities` of the most similar training images;
    - its `outlier_score`, 1 minus the mean of these similarities;
    - the `neighbors` (rows in the raw file), the most similar images of the sample;
    - a `thumbnail` (WebP).

    The example image shows neighbors, clusters, outliers, and the test images at their map coordinates.

    If the backbone was trained with a relation head, the metrics also include its calibration on pairs of the two views
    (`rr.evaluate.relation_head.measure_calibration`). `rr compare` uses this calibration to compute probabilities.
    """
    train, test = inputs.train, inputs.test
    rows = sample_test_rows(len(test), config.images, inputs.seed)
    features = torch.from_numpy(test.features[rows]).to(inputs.device)
    normalized = F.normalize(features).cpu().numpy()
    analysis = _analyze(normalized, train.features, config, inputs.seed)
    metrics = _compute_metrics(inputs, config, rows, features, normalized)
    images = inputs.read_images("test", rows)
    return ProtocolResult(
        metrics=metrics,
        rows=rows,
        columns={
            "x": analysis.coordinates[:, 0],
            "y": analysis.coordinates[:, 1],
            "cluster": analysis.clusters,
            "outlier_score": analysis.outlier_scores,
            "train_neighbors": train.index[analysis.train_neighbors],
            "similarities": analysis.similarities,
            "neighbors": test.index[rows][nearest_other_images(normalized, NUM_MAP_NEIGHBORS)],
            "thumbnail": np.array([_encode_thumbnail(image) for image in images], object),
        },
        examples=_render_examples(inputs, shrink_tiles(images), analysis),
    )


def sample_test_rows(num_test_images: int, max_images: int, seed: int) -> np.ndarray:
    """Return the sorted row numbers of a random sample of test images, int64 (R,)."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(num_test_images)
    return np.sort(order[:max_images])


def _analyze(normalized: np.ndarray, train_features: np.ndarray, config: EmbeddingConfig, seed: int) -> _Analysis:
    """Return the analysis of normalized features of test images, float32 (R, D)."""
    clusters, center_distances = _find_clusters(normalized, config.clusters, seed)
    train_neighbors, similarities = find_nearest(normalized, train_features, _NUM_NEIGHBORS)
    return _Analysis(
        coordinates=compute_tsne(normalized, config.perplexity, seed),
        clusters=clusters,
        center_distances=center_distances,
        train_neighbors=train_neighbors,
        similarities=similarities,
        outlier_scores=1 - similarities.mean(1),
    )


def _compute_metrics(
    inputs: EvaluationInputs, config: EmbeddingConfig, rows: np.ndarray, features: Tensor, normalized: np.ndarray
) -> dict[str, float]:
    """Return the metrics of the test images in `rows`, by name; see `evaluate`.

    `features`, float32 (R, D), are on the device of `inputs`. `normalized` are the same features scaled to norm 1.
    """
    first_views, second_views = _extract_features_of_two_views(inputs, config, rows)
    metrics = {
        **_compute_silhouette(normalized, inputs.test.labels[rows]),
        "rankme": rankme(features),
        "alignment": alignment(first_views, second_views),
        "uniformity": uniformity(features),
        "effective_rank": effective_rank(features),
        "images": len(rows),
    }
    head = inputs.load_relation_head()
    if head and len(rows) >= MIN_CALIBRATION_IMAGES:
        views = torch.stack((first_views, second_views)).cpu().numpy()
        metrics |= measure_calibration(head, views, inputs.seed)
    return metrics


@contextmanager
def _configure_scikit_learn() -> Iterator[None]:
    """Let scikit-learn use one thread, and ignore its warnings about a collapsed network.

    With several threads, values would be summed in a different order in each run. Only libraries that are imported
    before this call are limited to one thread.
    """
    from sklearn.exceptions import ConvergenceWarning  # imported here because the import takes a second

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # in case of a division by zero
        warnings.simplefilter("ignore", ConvergenceWarning)  # issued if there are fewer distinct features than clusters
        yield


def _compute_silhouette(normalized: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return a dictionary with the silhouette of the classes, computed on the labeled images.

    The dictionary is empty unless there are at least two classes, and fewer classes than labeled images.
    """
    from sklearn.metrics import silhouette_score

    is_labeled = labels >= 0
    if not 2 <= len(np.unique(labels[is_labeled])) < is_labeled.sum():
        return {}
    with _configure_scikit_learn():
        return {"silhouette": float(silhouette_score(normalized[is_labeled], labels[is_labeled]))}


def compute_tsne(normalized: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Return the t-SNE coordinates of normalized features (N, D), float32 (N, 2).

    The perplexity is at most a third of the number of other images. If all features are identical, which can happen in
    a collapsed network, all coordinates are 0.
    """
    if (normalized == normalized[0]).all():  # scikit-learn would divide by zero and then crash
        return np.zeros((len(normalized), 2), np.float32)
    from sklearn.manifold import TSNE

    perplexity = min(perplexity, (len(normalized) - 1) / 3)
    with _configure_scikit_learn():
        return TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(normalized)


def _find_clusters(normalized: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each image, int64 (R,), and the image's distance to the cluster center, float (R,)."""
    from sklearn.cluster import KMeans

    with _configure_scikit_learn():
        kmeans = KMeans(min(num_clusters, len(normalized)), n_init=10, random_state=seed).fit(normalized)
    sizes = np.bincount(kmeans.labels_, minlength=kmeans.n_clusters)
    ranks = np.argsort(np.argsort(-sizes, kind="stable"))  # rank of each cluster by size; 0 is the largest
    distances = np.linalg.norm(normalized - kmeans.cluster_centers_[kmeans.labels_], axis=1)
    return ranks[kmeans.labels_], distances


def _encode_thumbnail(image: np.ndarray) -> bytes:
    """Return an image, uint8 (S, S, 3), as a WebP file of at most 48 x 48 pixels."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def _render_examples(inputs: EvaluationInputs, images: np.ndarray, analysis: _Analysis) -> np.ndarray:
    """Return the example image with its four titled sections. `images` are the test images, uint8 (R, S, S, 3)."""
    outliers = np.argsort(-analysis.outlier_scores, kind="stable")[:_NUM_OUTLIERS]
    sections = {
        "Test images and, to the right, the most similar training images": _render_neighbors(
            inputs, images, analysis.train_neighbors
        ),
        "Clusters: in each row, the number of a cluster and the test images nearest to its center": _render_clusters(
            images, analysis.clusters, analysis.center_distances
        ),
        "Outliers: the test images that are least similar to training images": make_image_grid(
            images[outliers], _EXAMPLE_COLUMNS
        ),
        "Map: nearby images have similar features": render_map(images, analysis.coordinates),
    }
    return vstack_images(
        [part for title, image in sections.items() for part in (render_text(title, _MAP_SIZE, 48), image)]
    )


def _render_neighbors(inputs: EvaluationInputs, images: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return a grid with one row per test image: the image, a gap, and the most similar training images."""
    tiles = []
    for query in np.unique(np.linspace(0, len(images) - 1, _NUM_QUERIES).round().astype(np.int64)):
        similar = shrink_tiles(inputs.read_images("train", neighbors[query]))
        tiles += [images[query], np.full_like(images[query], 255), *similar]
    return make_image_grid(np.stack(tiles), neighbors.shape[1] + 2)


def _render_clusters(images: np.ndarray, clusters: np.ndarray, center_distances: np.ndarray) -> np.ndarray:
    """Return a grid with one row per cluster: its number, counted from 1, and the images nearest to its center."""
    size = images.shape[1]
    tiles = []
    for cluster in range(clusters.max() + 1):
        members = np.flatnonzero(clusters == cluster)
        members = members[np.argsort(center_distances[members], kind="stable")][: _EXAMPLE_COLUMNS - 1]
        row = [render_text(str(cluster + 1), size, size), *images[members]]
        tiles += row + [np.full_like(row[0], 255)] * (_EXAMPLE_COLUMNS - len(row))
    return make_image_grid(np.stack(tiles), _EXAMPLE_COLUMNS)


def _extract_features_of_two_views(
    inputs: EvaluationInputs, config: EmbeddingConfig, rows: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the features of two augmented views of each test image in `rows`, float32 (R, D) each."""
    backbone, test = inputs.load_backbone(), inputs.open_split("test")
    preprocessing = inputs.target.preprocessing
    # As in training, views of photographs are cropped from the stored photographs.
    loader = ViewLoader(
        test, preprocessing, config.augmentation, num_views=2,
        batch_size=batch_size_for(preprocessing.image_size, inputs.device), seed=inputs.seed, device=inputs.device,
    )  # fmt: skip
    batches = []
    with torch.inference_mode():
        for batch in loader.iter_batches(0, rows):
            views = loader.augment(*batch.inputs)
            batches.append(backbone(views).float().view(2, len(batch.labels), -1))
    first, second = torch.cat(batches, 1)
    return first, second


def render_map(images: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Return a white square with each image at its map coordinates, uint8 (W, W, 3).

    The square is divided into image-sized tiles, so images never overlap. If several images fall on the same tile, only
    the first is shown.

    Args:
        images: uint8 (R, S, S, 3).
        coordinates: x (to the right) and y (upward) of each image, in any unit, float (R, 2).
    """
    side = images.shape[1]
    tiles = max(2, _MAP_SIZE // side)
    low, high = coordinates.min(0), coordinates.max(0)
    tile_positions = np.rint((coordinates - low) / np.maximum(high - low, 1e-12) * (tiles - 1)).astype(np.int64)
    canvas = np.full((tiles * side, tiles * side, 3), 255, np.uint8)
    _, first_rows = np.unique(tile_positions, axis=0, return_index=True)
    for row in first_rows:
        left, top = tile_positions[row, 0] * side, (tiles - 1 - tile_positions[row, 1]) * side
        canvas[top : top + side, left : left + side] = images[row]
    return canvas
