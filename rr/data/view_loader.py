"""Load mini-batches of augmented views in the background while training runs.

If all augmentation policies use resized crops, views of photographs are cropped while FFCV decodes the photographs.
Otherwise, each photograph is first resized so that its shorter side equals the image size, and its center is cropped.

On the CPU, a batch contains the views themselves. On a GPU, it contains the image pixels and a table of augmentation
parameters. `ViewLoader.augment` makes the views from them on the GPU, as the first part of the compiled training step.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rr.data.beton import Beton
from rr.data.photograph_beton import PhotographBeton
from rr.data.preprocessing import Preprocessing
from rr.views import (
    ViewParameters,
    apply_view_parameters,
    sample_precropped_view_parameters,
    sample_view_parameters,
    torch_views,
)
from rr.views.augmentation import Augmentation, as_policies

PREFETCH = 2  # number of batches to prepare ahead of the training step


class Batch(NamedTuple):
    """A mini-batch of M images, on the loader's device.

    Attributes:
        inputs: arguments to `ViewLoader.augment`, for the images of this process.
        labels: labels of all images of the mini-batch, int64 (M,).
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor


class ViewLoader:
    """Loads the mini-batches of any epoch. A batch depends only on the seed, the epoch and the step.

    Args:
        data: the images and their labels.
        preprocessing: the dataset's preprocessing; its mean and standard deviation are used for normalization.
        augmentation: the random transformations that turn an image into a view, or a tuple of such policies that the
            views of an image use in turn.
        num_views: number of views per image (K).
        batch_size: number of images per mini-batch, over all processes.
        seed: seed for the image order and the augmentations.
        device: device of the batches, such as "cpu" or "cuda:0".
        positions: positions in `data` of the images to use. Defaults to all images.
        augment_on_device: whether `augment` makes the views, as it does on a GPU. The default depends on `device`;
            tests set it on the CPU.
        local_slice: function that maps the size of a mini-batch to the slice of its images that this process handles
            (at least one image). Defaults to the whole mini-batch.
    """

    def __init__(
        self,
        data: Beton,
        preprocessing: Preprocessing,
        augmentation: Augmentation | tuple[Augmentation, ...],
        *,
        num_views: int,
        batch_size: int,
        seed: int,
        device: str,
        positions: np.ndarray | None = None,
        augment_on_device: bool | None = None,
        local_slice: Callable[[int], slice] | None = None,
    ) -> None:
        self.positions = np.arange(len(data)) if positions is None else positions
        self.data, self.preprocessing, self.policies = data, preprocessing, as_policies(augmentation)
        self.num_views, self.batch_size, self.seed = num_views, batch_size, seed
        self.local_slice = local_slice or slice
        self.device = torch.device(device)
        self.augment_on_device = self.device.type != "cpu" if augment_on_device is None else augment_on_device
        self.labels = torch.from_numpy(data.labels).to(self.device)
        # The dataset if it contains photographs from which resized crops are taken; otherwise None.
        self.photographs: PhotographBeton | None = None
        if isinstance(data, PhotographBeton) and all(policy.crop == "resized" for policy in self.policies):
            self.photographs = data
        self.augment: Callable[..., Tensor] = _identity
        self.device_images: Tensor | None = None
        if self.augment_on_device:
            normalization = torch_views.pack_normalization(preprocessing.mean, preprocessing.std)
            self.augment = partial(
                torch_views.augment_packed,
                normalization=torch_views.to_device(normalization, self.device),
                num_views=1 if self.photographs else num_views,
                enabled=torch_views.EnabledOps.from_policies(self.policies),
            )
            if data.images is not None:
                # A split that is held in host memory also fits on the device. Larger splits are streamed to the device.
                self.device_images = torch.from_numpy(data.images).to(self.device)

    def set_labels(self, labels: np.ndarray) -> None:
        """Replace the labels of all images in `data`, int64 (N,). This must not be called during an epoch."""
        self.labels = torch.from_numpy(labels).to(self.device)

    def iter_epoch(self, number: int, first_step: int = 0, num_images: int | None = None) -> Iterator[Batch]:
        """Yield the batches of one epoch in random order; the last batch may be smaller.

        Args:
            number: epoch number, which determines the image order and the augmentations.
            first_step: number of batches to skip.
            num_images: number of images to sample for the epoch. Defaults to all images.
        """
        rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        order = self.positions[rng.permutation(len(self.positions))[:num_images]]
        return prefetch(self.iter_batches(number, order[first_step * self.batch_size :]), PREFETCH)

    def iter_batches(self, epoch: int, order: np.ndarray) -> Generator[Batch, None, None]:
        """Yield batches of the images at the positions in `order`, with the views of the given epoch."""
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.device_images is not None:
            for positions in batches:
                yield self._make_gpu_batch(None, positions, epoch)
        elif batches:
            local_order = np.concatenate([positions[self.local_slice(len(positions))] for positions in batches])
            # The size of this process's slice of a full mini-batch. If there is only one mini-batch, it may be smaller.
            local_size = min(len(local_order), len(range(self.batch_size)[self.local_slice(self.batch_size)]))
            make_batch = self._make_gpu_batch if self.augment_on_device else self._make_cpu_batch
            for positions, images in zip(batches, self._iter_images(epoch, local_order, local_size), strict=True):
                yield make_batch(images, positions, epoch)

    def _iter_images(self, epoch: int, order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the images from which the views are made: (M, S, S, 3) or, for random crops, (K * M, S, S, 3)."""
        if self.photographs:
            for crops in self.photographs.random_crops(
                order, batch_size, self.policies, self.seed, epoch, self.num_views
            ):
                yield crops.swapaxes(0, 1).reshape(-1, *crops.shape[2:])
        elif isinstance(self.data, PhotographBeton):
            yield from self.data.center_crops(order, batch_size, self.data.image_size)
        else:
            yield from self.data.batches(order, batch_size)

    def _sample_parameters(self, positions: np.ndarray, epoch: int) -> ViewParameters:
        """Sample the view parameters for the images at `positions` in `data`."""
        sample = sample_precropped_view_parameters if self.photographs else sample_view_parameters
        index = self.data.index[positions]
        return sample(self.policies, self.seed, epoch, index, self.num_views, self.data.image_size)

    def _make_cpu_batch(self, images: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        """Make a batch that contains the views themselves."""
        parameters = self._sample_parameters(positions[self.local_slice(len(positions))], epoch)
        views = apply_view_parameters(images, parameters, self.preprocessing.mean, self.preprocessing.std, "cpu")
        return Batch((views,), self.labels[torch.from_numpy(positions)])

    def _make_gpu_batch(self, images: np.ndarray | None, positions: np.ndarray, epoch: int) -> Batch:
        """Make a batch of pixels and augmentation parameters; `images` is None if all images are on the device."""
        local = self.local_slice(len(positions))
        parameters = self._sample_parameters(positions[local], epoch)
        rows = torch_views.to_device(positions, self.device)
        if self.device_images is not None:
            pixels = self.device_images[rows[local]]
        else:
            pixels = torch_views.to_device(np.array(images), self.device)
        return Batch(
            (pixels, torch_views.to_device(torch_views.pack_parameters(parameters), self.device)), self.labels[rows]
        )


def _identity(views: Tensor) -> Tensor:
    return views


def prefetch(source: Generator[Any, None, None], depth: int) -> Iterator[Any]:
    """Yield the items of `source`, which another thread computes up to `depth` items ahead; raise its exceptions."""
    # numba's number of threads and the CUDA device are set per thread. The new thread copies the caller's settings.
    threads, device = numba.get_num_threads(), torch.cuda.current_device() if torch.cuda.is_available() else None

    def copy_caller_settings() -> None:
        numba.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)

    end = object()
    with ThreadPoolExecutor(1, "prefetch", copy_caller_settings) as executor:
        try:
            pending = deque(executor.submit(next, source, end) for _ in range(depth))
            while (item := pending.popleft().result()) is not end:
                pending.append(executor.submit(next, source, end))
                yield item
        finally:
            executor.shutdown(cancel_futures=True)
            source.close()
