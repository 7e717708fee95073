"""The mini-batches of an epoch: order, reading, drawing and augmenting, one batch ahead of training.

On the CPU a batch arrives as finished views. On a GPU it arrives as the pictures' bytes and a table of drawn
parameters, and `augment` makes the views there, as the first part of the compiled step.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rr.data.beton import Beton
from rr.params import Dataset
from rr.views import draw, make_views, torch_ops
from rr.views.augmentation import Augmentation

AHEAD = 2


class Batch(NamedTuple):
    """A mini-batch of M pictures: what `Feed.augment` takes, and int64 labels (M,), all on the device.

    The inputs are those of this process's share of the pictures, the labels those of all.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor


class Feed:
    """The batches of any epoch; a pure function of seed, epoch and step."""

    def __init__(
        self,
        data: Beton,
        dataset: Dataset,
        augmentation: Augmentation,
        *,
        views: int,
        batch_size: int,
        seed: int,
        device: str,
        rows: np.ndarray | None = None,
        on_device: bool | None = None,
        share: Callable[[int], slice] | None = None,
    ) -> None:
        """`rows` are the positions of the pictures that an epoch shows; None for all.

        `share` says which pictures of a mini-batch of so many this process takes, at least one; None for all.
        `on_device` chooses the GPU's way (tests do so on the CPU); None chooses by the device.
        """
        self.rows = np.arange(len(data)) if rows is None else rows
        self.data, self.dataset, self.augmentation = data, dataset, augmentation
        self.views, self.batch_size, self.seed = views, batch_size, seed
        self.share = share or slice
        self.device = torch.device(device)
        self.on_device = self.device.type != "cpu" if on_device is None else on_device
        self.labels = torch.from_numpy(data.labels).to(self.device)
        self.augment: Callable[..., Tensor] = _as_it_is
        self.images: Tensor | None = None
        if self.on_device:
            scale = torch_ops.upload(torch_ops.pack_normalisation(dataset.mean, dataset.std), self.device)
            self.augment = partial(_on_device, normalisation=scale, views=views, steps=torch_ops.Steps.of(augmentation))
            if data.images is not None:
                # A split that is resident on the host fits the device too; a larger one is streamed to it.
                self.images = torch.from_numpy(data.images).to(self.device)

    def use_labels(self, labels: np.ndarray) -> None:
        """Give these labels, int64 (N,), with the pictures from the next epoch on."""
        self.labels = torch.from_numpy(labels).to(self.device)

    def epoch(self, number: int, first_step: int = 0, images: int | None = None) -> Iterator[Batch]:
        """Yield the batches of epoch `number` from `first_step` on, of all or of `images` pictures.

        The last may be smaller.
        """
        places = np.random.Generator(np.random.Philox(key=[self.seed, number])).permutation(len(self.rows))[:images]
        return ahead(self._batches(number, self.rows[places[first_step * self.batch_size :]]), AHEAD)

    def _batches(self, epoch: int, order: np.ndarray) -> Iterator[Batch]:
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.images is not None:
            for positions in batches:
                yield self._packed(None, positions, epoch)
        elif batches:
            own = np.concatenate([positions[self.share(len(positions))] for positions in batches])
            shown = self.data.batches(own, len(range(self.batch_size)[self.share(self.batch_size)]))
            make = self._packed if self.on_device else self._made
            for positions, (images, _) in zip(batches, shown, strict=True):
                yield make(images, positions, epoch)

    def _made(self, images: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        index = self.data.index[positions[self.share(len(positions))]]
        views = make_views(
            images, index, augmentation=self.augmentation, seed=self.seed, epoch=epoch, views=self.views,
            mean=self.dataset.mean, std=self.dataset.std, device="cpu",
        )  # fmt: skip
        return Batch((views,), self.labels[torch.from_numpy(positions)])

    def _packed(self, images: np.ndarray | None, positions: np.ndarray, epoch: int) -> Batch:
        share = self.share(len(positions))
        index = self.data.index[positions[share]]
        drawn = draw(self.augmentation, self.seed, epoch, index, self.views, self.data.side)
        rows = torch_ops.upload(positions, self.device)
        pixels = (
            self.images[rows[share]] if self.images is not None else torch_ops.upload(np.array(images), self.device)
        )
        return Batch((pixels, torch_ops.upload(torch_ops.pack(drawn), self.device)), self.labels[rows])


def _as_it_is(views: Tensor) -> Tensor:
    return views


def _on_device(images: Tensor, table: Tensor, **constants: Any) -> Tensor:
    return torch_ops.apply_table(images, table, **constants)


def ahead(source: Iterator[Any], depth: int) -> Iterator[Any]:
    """Yield what `source` yields, computed by another thread up to `depth` items ahead; its errors are raised here."""
    items: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()
    # Both settings belong to a thread, and the caller's are those that its stage has chosen.
    threads, device = numba.get_num_threads(), torch.cuda.current_device() if torch.cuda.is_available() else None

    def put(kind: str, item: Any) -> None:
        while not stopped.is_set():
            try:
                return items.put((kind, item), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        numba.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)
        try:
            for item in source:
                put("item", item)
                if stopped.is_set():
                    break
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            source.close()  # type: ignore[attr-defined]

    worker = threading.Thread(target=work, name="feed", daemon=True)
    worker.start()
    try:
        while True:
            kind, item = items.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stopped.set()
        worker.join()
