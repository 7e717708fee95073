"""The pictures that the parts work on: a converted data set, or generated ones of the same size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rr.bench.settings import Settings
from rr.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One split as the two sides read it: a beton, and arrays for `numpy.load`."""

    name: str
    beton: Path
    images: Path
    labels: Path
    count: int
    classes: int


def beton_of(folder: Path) -> Path:
    """The training split of a converted data set. Raises UserError when the folder has none."""
    path = folder / "train.beton"
    if not path.is_file():
        raise UserError(f"--data {folder}: no train.beton there; give a folder that rr convert wrote, or leave it out")
    return path


def prepare(settings: Settings, count: int, scratch: Path) -> Sample:
    """Bring the chosen data set, or `count` generated pictures of side 32, into the form of both sides."""
    from rr.data import beton

    if settings.data is not None:
        path = beton_of(settings.data)
        data = beton.Beton(path, threads=1)
        images, labels, name = data.images, data.labels, f"{len(data):,} pictures of {settings.data.name}"
        if images is None:
            raise UserError(f"--data {settings.data}: too large to keep in memory, as the reference does")
        if labels.min() < 0:
            raise UserError(f"--data {settings.data}: it has no labels, which supervised training and evaluation need")
    else:
        from rr.data.shapes import generate

        images, labels = generate(count, 0, "train")
        path, name = scratch / "train.beton", f"{count:,} generated pictures of side 32"
        beton.write(path, images, labels, np.arange(count))
    np.save(scratch / "images.npy", images)
    np.save(scratch / "labels.npy", labels)
    return Sample(name, path, scratch / "images.npy", scratch / "labels.npy", len(labels), int(labels.max()) + 1)
