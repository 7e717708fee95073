"""Read your own images from Parquet files that follow the Hugging Face convention."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import raw
from rr.errors import UserError
from rr.params import ParquetSource

_HINT = "download or export this file again"


def read_dataset(source: ParquetSource, local_copy: Path | None) -> raw.RawDataset:
    """Return the images in `path/train*.parquet` and `path/test*.parquet` (or `validation*`, `val*`).

    The files may also be in `path/data`. If there are no test files, or if `path` is a file, about `test_fraction` of
    the training images form the test split.

    Args:
        source: the dataset's `source` section in params.yaml.
        local_copy: file or folder to use instead of the path of `source`.

    Raises:
        UserError: if there are no training files, or if a file is damaged or has other columns.
    """
    root = local_copy or Path(source.path)
    train, test = ([(path, _open_parquet(path)) for path in _list_parquet_files(root, split)] for split in raw.SPLITS)
    if not train:
        raise UserError(
            f"{root}: no Parquet file with training images found; give a file, or a folder with train*.parquet and, "
            "optionally, test*.parquet"
        )

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split, files in zip(raw.SPLITS, (train, test or train), strict=True):
            for path, file in files:
                with raw.translate_parquet_errors(path, _HINT):
                    for row, (data, label) in enumerate(_iter_rows(file)):
                        # Without test files, both splits read the training files, and each keeps its own images.
                        if test or _is_test_image(data, source.test_fraction) == (split == "test"):
                            yield raw.EncodedImage(split, f"{path.name}, row {row}", data, label)

    return raw.RawDataset(_read_class_names(train), iter_images())


def _list_parquet_files(root: Path, split: str) -> list[Path]:
    """Return the files of a split; the list is empty if there are none."""
    if root.is_file():
        return [root] if split == "train" else []
    patterns = ("train*.parquet",) if split == "train" else ("test*.parquet", "validation*.parquet", "val*.parquet")
    matches = [sorted(root.glob(pattern)) or sorted(root.glob(f"data/{pattern}")) for pattern in patterns]
    return next((paths for paths in matches if paths), [])


def _open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file and check its columns."""
    with raw.translate_parquet_errors(path, _HINT):
        file = pq.ParquetFile(path)
    schema = file.schema_arrow
    image = schema.field("image").type if "image" in schema.names else None
    has_bytes = image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not has_bytes or "label" not in schema.names or not pa.types.is_integer(schema.field("label").type):
        columns = ", ".join(f"'{field.name}' ({field.type})" for field in schema)
        raise UserError(
            f"{path} has the columns {columns}. By the Hugging Face convention, it must have a struct column 'image' "
            "with a field 'bytes', and an integer column 'label': rename or convert the columns"
        )
    return file


def _iter_rows(file: pq.ParquetFile) -> Iterator[tuple[bytes, int]]:
    """Yield the encoded image (empty if missing) and the label (-1 if missing) of each row."""
    for batch in file.iter_batches(batch_size=1000, columns=["image", "label"]):
        for image, label in zip(batch.column("image"), batch.column("label"), strict=True):
            data = image["bytes"].as_py() if image.is_valid else None
            yield data or b"", label.as_py() if label.is_valid else raw.UNLABELED


def _is_test_image(data: bytes, fraction: float) -> bool:
    """Return whether an image belongs to the test split.

    Only its bytes decide, so copies of an image are in the same split, and new rows do not move other rows.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < fraction * 2**64


def _read_class_names(files: list[tuple[Path, pq.ParquetFile]]) -> list[str]:
    """Return the names in the `huggingface` metadata, or else the labels as text (no names if all are unlabeled)."""
    metadata = (files[0][1].schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"] if metadata else None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    max_label = raw.UNLABELED
    for path, file in files:
        with raw.translate_parquet_errors(path, _HINT):
            labels = file.read(columns=["label"])["label"].to_pylist()
        max_label = max([max_label, *(label for label in labels if label is not None)])
        raw.check_label(max_label, path.name)
    if isinstance(names, list) and max_label < len(names):
        return [str(name) for name in names]
    return [str(label) for label in range(max_label + 1)]
