"""Feature extraction: apply a backbone to the images of a dataset split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rr.views import normalize

if TYPE_CHECKING:  # `rr retrieve` does not need these imports, which take a tenth of a second
    from rr.backbones.base import Backbone
    from rr.data.beton import Beton
    from rr.params import DatasetConfig

_BATCH_SIZE = 512


def extract_features(
    backbone: Backbone, beton: Beton, dataset: DatasetConfig, device: str, rows: np.ndarray | None = None
) -> Tensor:
    """Return the features of the images of `beton`, without augmentation, float32 (N, D) on `device`.

    Args:
        backbone: backbone in eval mode, on `device`.
        beton: dataset split that contains the images.
        dataset: configuration with the mean and the standard deviation for normalization.
        device: torch device on which to compute.
        rows: positions of the images to encode, in this order. By default, all images are encoded in file order.
    """
    batches = []
    with torch.inference_mode():
        for images, _ in beton.batches(np.arange(len(beton)) if rows is None else rows, _BATCH_SIZE):
            batches.append(backbone(normalize(images, mean=dataset.mean, std=dataset.std, device=device)).float())
    return torch.cat(batches).clone()
