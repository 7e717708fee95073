"""Save some training images and their views in one image."""

from pathlib import Path

import numpy as np
import torch

from rr.data.beton import Beton
from rr.data.image_grid import make_image_grid, write_png
from rr.data.preprocessing import Preprocessing
from rr.data.view_loader import ViewLoader
from rr.params.methods import TrainableConfig
from rr.pretrain.job import Job

_ROWS, _COLUMNS = 6, 8  # without the column of the original images


def save_view_grid(data: Beton, job: Job, target: Path) -> None:
    """Write an image grid of the first training images and their views in the first epoch, without normalization.

    A method that is not trained has no views, so its grid shows training images only.
    """
    if not isinstance(job.method, TrainableConfig):
        images = next(data.batches(range(min(_ROWS * _COLUMNS, len(data))), _ROWS * _COLUMNS))
        write_png(make_image_grid(images, _COLUMNS), target)
        return
    num_views = min(job.method.views, _COLUMNS)
    unnormalized = Preprocessing(data.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    positions = np.arange(min(_ROWS, len(data)))
    loader = ViewLoader(
        data,
        unnormalized,
        job.method.augmentations,
        num_views=num_views,
        batch_size=len(positions),
        seed=job.seed,
        device="cpu",
    )
    views = next(loader.iter_batches(0, positions)).inputs[0]
    images = np.array(next(data.batches(positions, len(positions))))
    pixels = (views.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    by_image = pixels.reshape(num_views, len(images), *pixels.shape[1:]).swapaxes(0, 1)
    rows = np.concatenate([images[:, None], by_image], axis=1)
    write_png(make_image_grid(rows.reshape(-1, *images.shape[1:]), num_views + 1), target)
