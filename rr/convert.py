"""Stage `convert`: decode and resize the images of one dataset; write one beton per split and an index."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rr.data import beton, raw
from rr.data.index import write_index
from rr.errors import UserError
from rr.runtime.atomic import atomic_write
from rr.runtime.progress import Progress


def convert(images: Path, image_size: int, betons: dict[str, Path], index: Path) -> dict[str, Any]:
    """Write the betons and the index of a raw file and return the image size and the number of images per split.

    The output is byte-identical on every run. The index holds one row per image: `index` (its row in the raw file,
    which the betons store too), `split`, `label`, `class`, and `sha256` of its decoded pixels.

    Args:
        images: raw file that `rr fetch` wrote.
        image_size: height and width of the converted images, in pixels.
        betons: path of the beton to write for each split.
        index: path of the index to write.

    Raises:
        UserError: if the raw file or one of its images is damaged.
    """
    raw_file = raw.RawFile(images)
    hashes: list[str] = []
    with Progress("convert", len(raw_file.labels), "images") as progress:

        def decode(encoded_images: Iterable[tuple[str, bytes]]) -> Iterator[np.ndarray]:
            for name, data in encoded_images:
                try:
                    pixels = raw.decode_image(data, image_size)
                except ValueError as error:
                    raise UserError(f"{images}: {name} cannot be decoded ({error}): run rr fetch again") from error
                hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest())
                progress.advance(1)
                yield pixels

        encoded_images = raw_file.iter_images()
        for split in raw.SPLITS:
            rows = np.flatnonzero(raw_file.splits == split)
            with atomic_write(betons[split]) as temporary:
                beton.write(temporary, decode(islice(encoded_images, len(rows))), raw_file.labels[rows], rows)
                beton.validate(temporary)
    write_index(index, raw_file.splits, raw_file.labels, hashes, raw_file.class_names)
    return {"side": image_size, "images": {split: int((raw_file.splits == split).sum()) for split in raw.SPLITS}}
