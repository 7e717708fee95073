"""From a saved backbone and a beton to a matrix of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rr.views import normalise

if TYPE_CHECKING:  # what they import costs a tenth of a second, and a search is to answer at once
    from rr.data.beton import Beton
    from rr.params import Dataset

_BATCH = 512


def extract(backbone: nn.Module, data: Beton, dataset: Dataset, device: str, rows: np.ndarray | None = None) -> Tensor:
    """Features of every picture in file order, float32 (N, D) on `device`, without augmentation (paper, protocol).

    Of the pictures at the positions `rows` alone, where given.
    """
    parts = []
    with torch.inference_mode():
        for images, _ in data.batches(np.arange(len(data)) if rows is None else rows, _BATCH):
            parts.append(backbone(normalise(images, mean=dataset.mean, std=dataset.std, device=device)).float())
    return torch.cat(parts).clone()
