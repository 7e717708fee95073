"""The embedding space: a t-SNE map of test images, and metrics of how classes and views are distributed in it."""

import io
import warnings

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from rr.evaluate.checks import sample_test_rows
from rr.evaluate.features import batch_size_for
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.representation_metrics import alignment, effective_rank, uniformity
from rr.evaluate.result import ProtocolResult
from rr.evaluate.similarity import nearest_neighbors
from rr.params import EmbeddingConfig
from rr.views import make_views

NUM_NEIGHBORS = 5
_MAP_SIZE = 1024  # pixels
_THUMBNAIL_SIZE = 48  # pixels


def evaluate(inputs: EvaluationInputs, config: EmbeddingConfig) -> ProtocolResult:
    """Compute a t-SNE map and metrics of the features of a random sample of `config.images` test images.

    The metrics are `silhouette` (of the classes, by the Euclidean distance between normalized features), `alignment` of
    two augmented views and `uniformity` (Wang and Isola 2020), and `effective_rank`. The table has the coordinates x
    and y of the map, the index of the nearest images of the sample by cosine similarity, and a thumbnail (WebP). The
    example image shows the test images at their map coordinates, without overlap.
    """
    from sklearn.metrics import silhouette_score  # the import takes a second; the other protocols do not need it

    test = inputs.test
    rows = sample_test_rows(len(test), config.images, inputs.seed)
    features = torch.from_numpy(test.features[rows]).to(inputs.device)
    normalized = F.normalize(features).cpu().numpy()
    # Several threads would add up values in an order that differs between runs.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # from a division by zero if all features are identical
        silhouette = float(silhouette_score(normalized, test.labels[rows]))
    coordinates = compute_tsne(normalized, config.perplexity, inputs.seed)
    first_views, second_views = _extract_features_of_two_views(inputs, config, rows)
    metrics = {
        "silhouette": silhouette,
        "alignment": alignment(first_views, second_views),
        "uniformity": uniformity(features),
        "effective_rank": effective_rank(features),
        "images": len(rows),
    }
    images = inputs.read_images("test", rows)
    columns = {
        "x": coordinates[:, 0],
        "y": coordinates[:, 1],
        "neighbors": test.index[rows][nearest_neighbors(normalized, NUM_NEIGHBORS)],
        "thumbnail": np.array([_encode_thumbnail(image) for image in images], object),
    }
    return ProtocolResult(metrics, rows, columns, render_map(images, coordinates))


def compute_tsne(normalized: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Return the t-SNE coordinates of normalized features (N, D), float32 (N, 2)."""
    from sklearn.manifold import TSNE

    # Several threads would add up values in an order that differs between runs.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # from a division by zero if all features are identical
        return TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(normalized)


def _encode_thumbnail(image: np.ndarray) -> bytes:
    """Return an image, uint8 (S, S, 3), as a WebP file of at most 48 x 48 pixels."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


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
