"""The shape of the space: a map of test pictures (t-SNE), and how classes and views lie in it."""

import warnings

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.representation_metrics import alignment, effective_rank, uniformity
from rr.evaluate.result import Found
from rr.params import Dataset, Embedding
from rr.views import make_views

_MAP = 1024  # pixels
_BATCH = 512


def run(
    settings: Embedding, backbone: nn.Module, features: Tensor, test: Beton, dataset: Dataset, *, seed: int, device: str
) -> Found:
    """Look at up to `images` test pictures, chosen by `seed`; `features` float32 (N, D) are those of all.

    Metrics: `silhouette` of the classes on normalised features (scikit-learn, Euclidean); `alignment` of two augmented
    views and `uniformity` (Wang and Isola 2020); `effective_rank` of the features. The table has the map's x and y.
    The examples are pictures at their places of the map, as many as fit beside each other. Raises UserError for a
    perplexity that the pictures are too few for, and for pictures of a single class.
    """
    choice = np.random.Generator(np.random.Philox(key=seed)).permutation(len(test))[: settings.images]
    rows = np.sort(choice)
    labels = test.labels[rows]
    if settings.perplexity >= len(rows):
        raise UserError(
            f"embedding: a perplexity of {settings.perplexity:g} needs more pictures than that; there are {len(rows)}: "
            "lower perplexity, or raise images, in params.yaml"
        )
    if not 2 <= len(np.unique(labels)) < len(rows):
        raise UserError(
            f"{test.path}: the silhouette needs two classes, and two pictures of one, among {len(rows)}: raise images"
        )
    chosen = features[torch.from_numpy(rows).to(features.device)]
    directions = F.normalize(chosen).cpu().numpy()
    # One thread: with several, sums end in an order that differs from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # features that are all the same have no variance to divide by
        silhouette = float(silhouette_score(directions, labels))
        places = TSNE(perplexity=settings.perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(directions)
    first, second = _two_views(settings, backbone, test, rows, dataset, seed, device)
    metrics = {
        "silhouette": silhouette,
        "alignment": alignment(first, second),
        "uniformity": uniformity(chosen),
        "effective_rank": effective_rank(chosen),
        "images": len(rows),
    }
    images = np.concatenate([np.array(batch) for batch, _ in test.batches(rows, _BATCH)])
    return Found(metrics, rows, {"x": places[:, 0], "y": places[:, 1]}, draw_map(images, places))


def _two_views(
    settings: Embedding, backbone: nn.Module, test: Beton, rows: np.ndarray, dataset: Dataset, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    """Features of two augmented views of each picture, float32 (R, D) each."""
    parts = []
    with torch.inference_mode():
        for images, positions in test.batches(rows, _BATCH):
            views = make_views(
                images, test.index[positions], augmentation=settings.augmentation, seed=seed, epoch=0, views=2,
                mean=dataset.mean, std=dataset.std, device=device,
            )  # fmt: skip
            parts.append(backbone(views).float().view(2, len(positions), -1))
    first, second = torch.cat(parts, 1)
    return first, second


def draw_map(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Lay images uint8 (R, S, S, 3) at `places` float (R, 2) of a white square; the first of a place stays.

    Places are counted in tiles of the pictures' side, so that no picture covers another. Returns uint8 (W, W, 3).
    """
    side = images.shape[1]
    tiles = max(2, _MAP // side)
    low, high = places.min(0), places.max(0)
    where = np.rint((places - low) / np.maximum(high - low, 1e-12) * (tiles - 1)).astype(np.int64)
    canvas = np.full((tiles * side, tiles * side, 3), 255, np.uint8)
    _, firsts = np.unique(where, axis=0, return_index=True)
    for row in firsts:
        left, top = where[row, 0] * side, (tiles - 1 - where[row, 1]) * side
        canvas[top : top + side, left : left + side] = images[row]
    return canvas
