"""The embedding space: a t-SNE map of test images, and metrics of how classes and views are distributed in it."""

import warnings

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from rr.evaluate.checks import sample_test_rows
from rr.evaluate.features import batch_size_for
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.relation_head import MIN_CALIBRATION_IMAGES, measure_calibration
from rr.evaluate.representation_metrics import alignment, effective_rank, uniformity
from rr.evaluate.result import ProtocolResult
from rr.params import EmbeddingConfig
from rr.views import make_views

_MAP_SIZE = 1024  # pixels


def evaluate(inputs: EvaluationInputs, config: EmbeddingConfig) -> ProtocolResult:
    """Compute a t-SNE map and metrics of the features of a random sample of `config.images` test images.

    The metrics are `silhouette` (of the classes, by the Euclidean distance between normalized features), `alignment` of
    two augmented views and `uniformity` (Wang and Isola 2020), and `effective_rank`. The table has the coordinates x
    and y of the map. The example image shows the test images at their map coordinates, without overlap.

    If the backbone was trained with a relation head, the metrics also contain its calibration on pairs of the two views
    (`rr.evaluate.relation_head.measure_calibration`), with which `rr compare` computes probabilities.
    """
    from sklearn.manifold import TSNE  # the import takes a second, and the other protocols do not need it
    from sklearn.metrics import silhouette_score

    test = inputs.test
    rows = sample_test_rows(len(test), config.images, inputs.seed)
    features = torch.from_numpy(test.features[rows]).to(inputs.device)
    normalized = F.normalize(features).cpu().numpy()
    # Several threads would add up values in an order that differs between runs.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # from a division by zero if all features are identical
        silhouette = float(silhouette_score(normalized, test.labels[rows]))
        tsne = TSNE(perplexity=config.perplexity, init="pca", random_state=inputs.seed, n_jobs=1)
        coordinates = tsne.fit_transform(normalized)
    first_views, second_views = _extract_features_of_two_views(inputs, config, rows)
    metrics = {
        "silhouette": silhouette,
        "alignment": alignment(first_views, second_views),
        "uniformity": uniformity(features),
        "effective_rank": effective_rank(features),
        "images": len(rows),
    }
    head = inputs.load_relation_head()
    if head and len(rows) >= MIN_CALIBRATION_IMAGES:
        views = torch.stack((first_views, second_views)).cpu().numpy()
        metrics |= measure_calibration(head, views, inputs.seed)
    images = inputs.read_images("test", rows)
    return ProtocolResult(
        metrics, rows, {"x": coordinates[:, 0], "y": coordinates[:, 1]}, render_map(images, coordinates)
    )


def _extract_features_of_two_views(
    inputs: EvaluationInputs, config: EmbeddingConfig, rows: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the features of two augmented views of each test image in `rows`, float32 (R, D) each."""
    backbone, dataset, test = inputs.load_backbone(), inputs.target.dataset, inputs.open_split("test")
    batches = []
    with torch.inference_mode():
        for images, positions in test.batches(rows, batch_size_for(dataset.image_size, inputs.device)):
            views = make_views(
                images, test.index[positions], augmentation=config.augmentation, seed=inputs.seed, epoch=0,
                num_views=2, mean=dataset.mean, std=dataset.std, device=inputs.device,
            )  # fmt: skip
            batches.append(backbone(views).float().view(2, len(positions), -1))
    first, second = torch.cat(batches, 1)
    return first, second


def render_map(images: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Return a white square that shows images at their map coordinates, uint8 (W, W, 3).

    The square is divided into tiles, each as large as an image, so images never overlap. If several images fall on one
    tile, only the first is shown.

    Args:
        images: uint8 (R, S, S, 3).
        coordinates: x (to the right) and y (upwards) of each image in any unit, float (R, 2).
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
