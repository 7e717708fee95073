"""One's own pictures in Parquet, in the Hugging Face convention."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import raw
from rr.errors import UserError
from rr.params import ParquetSource

_CONVENTION = "the Hugging Face convention is a struct column 'image' with 'bytes', and an integer column 'label'"


def pictures(source: ParquetSource, local: Path | None) -> raw.Pictures:
    """Read `path/train*.parquet` and `path/test*.parquet` (or `validation*`), or split a single file by `test_share`.

    Raises UserError for missing files and other columns.
    """
    root = local or Path(source.path)
    files = {split: _files(root, split) for split in raw.SPLITS}
    if not files["train"]:
        raise UserError(
            f"{root}: no Parquet file there; give a file, or a folder with train*.parquet and test*.parquet"
        )
    opened = {split: [(path, _open(path)) for path in found] for split, found in files.items()}

    def rows() -> Iterator[raw.Picture]:
        for split in raw.SPLITS:
            # Without test files, one pass takes each split out of the training files.
            for path, file in opened[split] or opened["train"]:
                with _reading(path):
                    for row, data, label in _pictures(file):
                        if opened["test"] or _is_test(data, source.test_share) == (split == "test"):
                            yield raw.Picture(split, f"{path.name}, row {row}", data, label)

    return raw.Pictures(_class_names(opened["train"]), rows())


def _files(root: Path, split: str) -> list[Path]:
    if root.is_file():
        return [root] if split == "train" else []
    patterns = ("train*.parquet",) if split == "train" else ("test*.parquet", "validation*.parquet", "val*.parquet")
    found = [sorted(root.glob(pattern)) or sorted(root.glob(f"data/{pattern}")) for pattern in patterns]
    return next((paths for paths in found if paths), [])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; pyarrow's of damage has no number
        raise UserError(
            f"{path} is damaged, or no Parquet file ({' '.join(str(error).split())}): get it again"
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    with _reading(path):
        file = pq.ParquetFile(path)
    schema = file.schema_arrow
    image = schema.field("image").type if "image" in schema.names else None
    has_bytes = image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not has_bytes or "label" not in schema.names or not pa.types.is_integer(schema.field("label").type):
        raise UserError(f"{path} has the columns {', '.join(schema.names)}; {_CONVENTION}")
    return file


def _pictures(file: pq.ParquetFile) -> Iterator[tuple[int, bytes, int]]:
    """Yield (row number, bytes, label)."""
    position = 0
    for batch in file.iter_batches(batch_size=1000, columns=["image", "label"]):
        for image, label in zip(batch.column("image"), batch.column("label"), strict=True):
            # A missing label is stored as −1, and missing bytes are reported as an unreadable picture.
            number = label.as_py()
            content = image["bytes"].as_py() if image.is_valid else None
            yield position, content or b"", raw.UNLABELLED if number is None else number
            position += 1


def _is_test(data: bytes, share: float) -> bool:
    """Split by the picture's own bytes: no duplicate stands on both sides, and a new row moves no other."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < share * 2**64


def _class_names(files: list[tuple[Path, pq.ParquetFile]]) -> list[str]:
    """The names in the `huggingface` metadata, else the labels' numbers; empty when no picture has a label."""
    metadata = (files[0][1].schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"] if metadata else None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    labels = []
    for path, file in files:
        with _reading(path):
            labels += [label for label in file.read(columns=["label"])["label"].to_pylist() if label is not None]
    highest = max(labels, default=raw.UNLABELLED)
    if highest >= raw.CLASSES:
        raise UserError(f"the label {highest} is none: labels count from 0 to {raw.CLASSES - 1} at most")
    if isinstance(names, list) and highest < len(names):
        return [str(name) for name in names]
    return [str(number) for number in range(highest + 1)]
