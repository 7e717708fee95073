"""Vectors of a folder's pictures as Parquet: `path`, `vector`, and `size` and `modified`, which tell a changed one.

The schema's metadata holds all else that decides a vector, so that a file is reused only while it is true.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.errors import UserError
from rr.gallery.network import Network
from rr.gallery.pictures import Picture, text
from rr.runtime.atomic import replacing

_MAGIC = b"PAR1"  # the first bytes of every Parquet file


class Rows(NamedTuple):
    """Pictures and their vectors, float32 (N, D)."""

    pictures: list[Picture]
    vectors: np.ndarray


class Known(NamedTuple):
    """Rows by (path, size, modified), and the vectors in these rows, float32 (N, D)."""

    rows: dict[tuple[str, int, int], int]
    vectors: np.ndarray


class Useless(Exception):
    """An index that is damaged, or of something else; the text says which, after the file's name."""


def default_place(network: Network, folder: Path) -> Path:
    """Where the index of `folder` under `network` lies when nobody says."""
    key = json.dumps([network.about, text(folder.resolve())], sort_keys=True)
    return paths.gallery(hashlib.sha256(key.encode()).hexdigest()[:32])


def write(target: Path, network: Network, folder: Path, parts: Iterable[Rows]) -> int:
    """Write `parts` one after the other, in one step; return the number of rows. Raises UserError when there are none.

    Two processes may write the same target: the last one's file stays.
    """
    schema = _schema(network, folder)
    count = 0
    with (
        replacing(target, shared=True) as temporary,
        pq.ParquetWriter(temporary, schema, use_dictionary=False, write_page_checksum=True) as writer,
    ):
        for pictures, vectors in parts:
            flat = pa.array(vectors.reshape(-1), pa.float32())
            writer.write_table(
                pa.table(
                    {
                        "path": [picture.name for picture in pictures],
                        "vector": pa.FixedSizeListArray.from_arrays(flat, network.features),
                        "size": [picture.size for picture in pictures],
                        "modified": [picture.modified for picture in pictures],
                    },
                    schema=schema,
                )
            )
            count += len(pictures)
        if count == 0:
            raise UserError(f"{folder}: not one of its pictures can be read")
    return count


def read(path: Path, network: Network, folder: Path) -> Known:
    """What the index at `path` holds of `folder` under `network`. Raises Useless for one that cannot be reused."""
    schema = _schema(network, folder)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()  # read_table would load pyarrow.dataset
        if not table.schema.equals(schema):
            raise Useless("holds other columns, or vectors of another length")
        found, expected = table.schema.metadata, schema.metadata
        differing = [key.decode() for key in expected if key != b"folder" and found.get(key) != expected[key]]
        if differing:
            raise Useless(f"was made with other values of {', '.join(differing)}")
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), network.features)
        keys = zip(*(table[name].to_pylist() for name in ("path", "size", "modified")), strict=True)
        return Known({key: row for row, key in enumerate(keys)}, vectors)
    except FileNotFoundError:
        return Known({}, np.empty((0, network.features), np.float32))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise Useless(f"is damaged ({' '.join(str(error).split())})") from error


def is_foreign(path: Path) -> bool:
    """Whether `path` is a file of something else, which an index must not replace: a whole one, or no Parquet."""
    if not path.exists():
        return False
    if not path.is_file():
        return True
    with open(path, "rb") as file:
        start = file.read(len(_MAGIC))
    if start and start != _MAGIC:
        return True
    try:
        return not {"path", "vector", "size", "modified"} <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError):
        return False  # damaged, and once perhaps an index


def _schema(network: Network, folder: Path) -> pa.Schema:
    about = network.about | {"folder": text(folder), "absolute_folder": text(folder.resolve())}
    return pa.schema(
        [
            ("path", pa.string()),
            ("vector", pa.list_(pa.float32(), network.features)),
            ("size", pa.int64()),
            ("modified", pa.int64()),
        ],
        metadata=about,
    )
