"""The images that the benchmark reads: a converted dataset or generated images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rr.bench.settings import Settings
from rr.errors import UserError


@dataclass(frozen=True)
class BenchData:
    """The same images for both implementations: a beton for rr, and NumPy files for the reference.

    Attributes:
        name: description of the images, which is shown with the results.
        beton: path of the beton.
        images: path of the images, uint8 (N, S, S, 3).
        labels: path of the labels, int64 (N,).
        num_images: number of images.
        num_classes: number of classes.
    """

    name: str
    beton: Path
    images: Path
    labels: Path
    num_images: int
    num_classes: int


def find_train_beton(folder: Path) -> Path:
    """Return the path of a converted dataset's training split.

    Raises:
        UserError: if `folder` contains no `train.beton`.
    """
    path = folder / "train.beton"
    if not path.is_file():
        raise UserError(
            f"--data {folder} contains no train.beton: pass a folder written by rr convert, such as "
            "data/beton/cifar10, or omit --data to use generated images"
        )
    return path


def prepare_data(settings: Settings, num_images: int, scratch: Path) -> BenchData:
    """Write the images for both implementations to the folder `scratch`.

    If the settings do not specify a dataset, `num_images` images of 32 × 32 pixels are generated.

    Raises:
        UserError: if the dataset has no `train.beton`, if this file is damaged, or if the dataset contains photographs
            of different sizes, is too large to keep in memory, or has unlabeled images.
    """
    from rr.data import beton

    if settings.data is not None:
        path = find_train_beton(settings.data)
        try:
            data = beton.Beton(path, threads=1)
        except UserError:
            beton.validate(path, photographs=True)
            raise UserError(
                f"--data {settings.data} contains photographs of different sizes, but the reference implementation "
                "needs images of one size: pass a dataset without stored_size, or omit --data to use generated images"
            ) from None
        images, labels, name = data.images, data.labels, f"{len(data):,} images of {settings.data.name}"
        if images is None:
            raise UserError(
                f"--data {settings.data}: the dataset is too large for the reference implementation, which keeps all "
                "images in memory: pass a smaller dataset, or omit --data to use generated images"
            )
        if labels.min() < 0:
            raise UserError(
                f"--data {settings.data} contains unlabeled images, but supervised training and evaluation need "
                "labels: pass a labeled dataset, or omit --data to use generated images"
            )
    else:
        from rr.data.shapes import generate_shapes

        images, labels = generate_shapes(num_images, 0, "train")
        path, name = scratch / "train.beton", f"{num_images:,} generated 32 × 32 images"
        beton.write(path, images, labels, np.arange(num_images))
    np.save(scratch / "images.npy", images)
    np.save(scratch / "labels.npy", labels)
    return BenchData(name, path, scratch / "images.npy", scratch / "labels.npy", len(labels), int(labels.max()) + 1)
