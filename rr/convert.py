"""Stage `convert`: decode and resize the images of a dataset; write one beton per split and an index."""

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


def convert(raw_path: Path, image_size: int, beton_paths: dict[str, Path], index_path: Path) -> dict[str, Any]:
    """Convert a raw file to betons and an index; return the image size and the number of images per split.

    The files are byte-identical on every run. The index holds one row per image: `index` (its row in the raw file,
    which the betons store too), `split`, `label`, `class`, and `sha256` of its decoded pixels.

    Args:
        raw_path: raw file that `rr fetch` wrote.
        image_size: height and width of the converted images, in pixels.
        beton_paths: path of the beton to write for each split.
        index_path: path of the index to write.

    Raises:
        UserError: if the raw file or one of its images is damaged.
    """
    raw_file = raw.RawFile(raw_path)
    hashes: list[str] = []
    with Progress("convert", len(raw_file.labels), "images") as progress:

        def decode(encoded_images: Iterable[tuple[str, bytes]]) -> Iterator[np.ndarray]:
            for name, data in encoded_images:
                try:
                    pixels = raw.decode_image(data, image_size)
                except ValueError as error:
                    raise UserError(f"{raw_path}: {name} cannot be decoded ({error}): run rr fetch again") from error
                hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest())
                progress.advance(1)
                yield pixels

        encoded_images = raw_file.iter_images()
        for split in raw.SPLITS:
            rows = np.flatnonzero(raw_file.splits == split)
            with atomic_write(beton_paths[split]) as temporary:
                beton.write(temporary, decode(islice(encoded_images, len(rows))), raw_file.labels[rows], rows)
                beton.validate(temporary)
    write_index(index_path, raw_file.splits, raw_file.labels, hashes, raw_file.class_names)
    return {"side": image_size, "images": {split: int((raw_file.splits == split).sum()) for split in raw.SPLITS}}
