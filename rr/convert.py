"""Stage `convert`: decode one data set's pictures, bring them to one side, write a beton per split and an index."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rr.data import beton, raw
from rr.data.index import write as write_index
from rr.errors import UserError
from rr.runtime.atomic import replacing
from rr.runtime.progress import Progress


def convert(images: Path, side: int, betons: dict[str, Path], index: Path) -> dict[str, Any]:
    """Write `betons` (one path per split) and `index` from the raw file `images`.

    The index holds a row per picture: `index` (its number in the raw file, which the betons carry too), `split`,
    `label`, `class`, and `sha256` of its side × side × 3 bytes. Byte-identical on every run.
    Raises UserError for a damaged raw file or picture.
    """
    source = raw.RawFile(images)
    hashes: list[str] = []
    with Progress("convert", len(source.labels), "images") as progress:

        def decoded(pictures: Iterator[tuple[str, bytes]]) -> Iterator[np.ndarray]:
            for name, data in pictures:
                try:
                    pixels = raw.decode(data, side)
                except ValueError as error:
                    raise UserError(f"{images}: {name} cannot be read ({error}): run rr fetch again") from error
                hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest())
                progress.advance(1)
                yield pixels

        pictures = source.pictures()
        for split in raw.SPLITS:
            rows = np.flatnonzero(source.splits == split)
            with replacing(betons[split]) as temporary:
                beton.write(temporary, decoded(islice(pictures, len(rows))), source.labels[rows], rows)
                beton.check(temporary)
    write_index(index, source.splits, source.labels, hashes, source.class_names)
    return {"side": side, "images": {split: int((source.splits == split).sum()) for split in raw.SPLITS}}
