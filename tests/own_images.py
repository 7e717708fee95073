"""Folders and Parquet files of images, for testing the sources that read a user's own images."""

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rr.data import raw
from rr.fetch import fetch
from rr.params import FolderSource, ParquetSource

_numbers = itertools.count()


def make_image(image_format: str = "PNG") -> bytes:
    """Return an encoded image that differs from all previous ones."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(next(_numbers)).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def save_file(path: Path, data: bytes | None = None) -> Path:
    """Write a file and create its folders. By default, the file contains an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_image() if data is None else data)
    return path


def save_tree(root: Path, counts: Mapping[str, int]) -> Path:
    """Write as many images to each folder as `counts` specifies, and return `root`."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save_file(root / folder / f"{number}.png")
    return root


def make_table(
    labels: Sequence[Any] | pa.Array, names: Sequence[str] | None = None, *, image: str = "image", label: str = "label",
    **columns: Any,
) -> pa.Table:  # fmt: skip
    """Return a table like those on the Hugging Face Hub. `names` are the class names in its metadata."""
    images = [{"bytes": make_image(), "path": f"{row}.png"} for row in range(len(labels))]
    table = pa.table({image: images, label: labels, **columns})
    if names is None:
        return table
    features = {label: {"_type": "ClassLabel", "names": list(names)}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save_tables(root: Path, tables: Mapping[str, pa.Table | bytes]) -> Path:
    """Write tables as Parquet files and bytes as other files, and return `root`."""
    for name, table in tables.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(table, bytes):
            path.write_bytes(table)
        else:
            pq.write_table(table, path)
    return root


def fetch_folder(root: Path, **keys: Any) -> dict[str, Any]:
    """Fetch the images in a folder into `raw_file(root)`, and return the facts."""
    return fetch(FolderSource(kind="imagefolder", path=str(root), **keys), raw_file(root), root.parent / "download")


def fetch_parquet(root: Path, **keys: Any) -> dict[str, Any]:
    """Fetch the images in a Parquet file, or in a folder of such files, into `raw_file(root)`, and return the facts."""
    return fetch(ParquetSource(kind="parquet", path=str(root), **keys), raw_file(root), root.parent / "download")


def raw_file(root: Path) -> Path:
    """Return the path of the file that `fetch_folder` and `fetch_parquet` write."""
    return root.parent / "fetched" / "images.parquet"


def fetched_labels(root: Path) -> dict[str, tuple[str, str]]:
    """Return, for the name of each fetched image, its split and its class name (empty if unlabeled)."""
    data = raw.RawFile(raw_file(root))
    names = [name for name, _ in data.iter_images()]
    classes = ["" if label < 0 else data.class_names[label] for label in data.labels]
    return dict(zip(names, zip(data.splits.tolist(), classes, strict=True), strict=True))
