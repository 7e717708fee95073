"""Stage `convert`: decode one data set's pictures, bring them to one side, write a beton per split and an index."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.atomic import replacing
from rr.data import beton, raw
from rr.errors import UserError
from rr.progress import Progress


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
    _write_index(index, source, hashes)
    return {"side": side, "images": {split: int((source.splits == split).sum()) for split in raw.SPLITS}}


def _write_index(index: Path, source: raw.RawFile, hashes: list[str]) -> None:
    names = [source.class_names[label] if 0 <= label < len(source.class_names) else None for label in source.labels]
    table = pa.table(
        {
            "index": np.arange(len(source.labels)),
            "split": pa.array(source.splits).dictionary_encode(),
            "label": source.labels,
            "class": pa.array(names, pa.string()),
            "sha256": hashes,
        }
    )
    metadata = {"class_names": json.dumps(source.class_names)}
    with replacing(index) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def class_names(index: Path) -> list[str]:
    """The class names of a converted data set; empty when it has no labels. Raises UserError for a damaged index."""
    try:
        return json.loads(pq.read_schema(index).metadata[b"class_names"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{index} is missing or damaged ({error}): run rr convert") from error
