"""Feature extraction: apply a backbone to the images of a dataset split."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rr.views import normalize

if TYPE_CHECKING:  # the imports take a tenth of a second, and `rr retrieve` does not need them
    from rr.backbones.base import Backbone
    from rr.data.beton import Beton
    from rr.data.preprocessing import Preprocessing

# If the images are larger than 224 × 224 pixels, batches contain fewer images, because the activations of full batches
# would need too much memory. On a CPU, batches are smaller so that the activations of small networks stay in the cache.
_MAX_BATCH_SIZE, _MAX_BATCH_PIXELS = 512, 512 * 224**2
_MAX_CPU_BATCH_SIZE, _MIN_CPU_BATCH_SIZE, _CPU_BATCH_PIXELS = 128, 16, 256 * 32**2


def batch_size_for(image_size: int, device: str) -> int:
    """Return the number of images of `image_size` × `image_size` pixels to encode at a time on `device`."""
    largest = _MAX_BATCH_SIZE
    if device == "cpu":
        largest = min(_MAX_CPU_BATCH_SIZE, max(_MIN_CPU_BATCH_SIZE, _CPU_BATCH_PIXELS // image_size**2))
    return min(largest, max(1, _MAX_BATCH_PIXELS // image_size**2))


def extract_features(
    backbone: Backbone,
    beton: Beton,
    preprocessing: Preprocessing,
    device: str,
    rows: np.ndarray | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the features of the unaugmented images in `beton`, float32 (N, D) on `device`.

    Args:
        backbone: backbone in eval mode, on `device`.
        beton: dataset split that contains the images.
        preprocessing: image size, and mean and standard deviation for normalization.
        device: torch device on which to compute.
        rows: positions of the images to encode, in this order. By default, all images are encoded in file order.
        on_batch: a function to call after each batch with its number of images.
    """
    rows = np.arange(len(beton)) if rows is None else rows
    features_ND = torch.empty((len(rows), backbone.num_features), dtype=torch.float32, device=device)
    start = 0
    with torch.inference_mode():
        for images in beton.batches(rows, batch_size_for(preprocessing.image_size, device)):
            inputs = normalize(images, mean=preprocessing.mean, std=preprocessing.std, device=device)
            features_ND[start : start + len(images)] = backbone(inputs)
            start += len(images)
            if on_batch:
                on_batch(len(images))
    return features_ND
