"""Read and write the raw format: `images.parquet` holds all images of a dataset in their original encoding.

`rr fetch` writes every kind of source in this format, and `rr convert` reads only this format. The columns follow the
Hugging Face convention, so common viewers can open the file: `image` (a struct of `bytes` and `path`), `label`
(int64, -1 if unlabeled) and `split` ("train" or "test"; the training images come first). The schema metadata holds the
class names.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rr.data.class_names_metadata import parse_class_names
from rr.errors import UserError
from rr.runtime.atomic import atomic_write

SPLITS = ("train", "test")
UNLABELED = -1
MAX_CLASSES = 100_000  # more than in any image dataset, but few enough for a list of all class names
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
    ]
)
# A photograph may take up several megabytes, so the number of bytes in a row group is also limited.
_MAX_ROWS_PER_GROUP, _MAX_BYTES_PER_GROUP = 1000, 1 << 26


class EncodedImage(NamedTuple):
    """An encoded image with its split and label. `name` identifies the image in the index and in messages."""

    split: str
    name: str
    data: bytes
    label: int


class RawDataset(NamedTuple):
    """A dataset from any source.

    Attributes:
        class_names: name of each class, indexed by label; empty if the dataset is unlabeled. The names are distinct.
        images: the images, with the training split first.
        num_images: number of images, or None if unknown.
        facts: facts about the source, for the record: `splits` (the origin of each split); for folders with a CSV file
            of labels, `labels` (the columns that were read) and `labels_sha256`; and, for Parquet files, `files`,
            `columns`, `schema` and `unused_images`.
    """

    class_names: list[str]
    images: Iterable[EncodedImage]
    num_images: int | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


def write(path: Path, dataset: RawDataset) -> dict[str, int]:
    """Write a dataset to a raw file, atomically, and return the number of images per split.

    Raises:
        UserError: if a split has no images, if a label is out of range, or if a training image follows a test image.
    """
    counts = dict.fromkeys(SPLITS, 0)
    metadata = {"class_names": json.dumps(dataset.class_names)}
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA.with_metadata(metadata)) as writer:
        for group in _iter_row_groups(dataset.images):
            for image in group:
                if image.split == SPLITS[0] and counts[SPLITS[1]]:
                    raise UserError(f"{image.name}: a source must yield all training images before the test images")
                counts[image.split] += 1
                check_label(image.label, image.name)
            writer.write_table(
                pa.table(
                    {
                        "image": [{"bytes": image.data, "path": image.name} for image in group],
                        "label": [image.label for image in group],
                        "split": [image.split for image in group],
                    },
                    schema=_SCHEMA,
                )
            )
        for split, count in counts.items():
            if count == 0:
                raise UserError(
                    f"{path} was not written, because the {split} split has no images: add images to the source"
                )
    return counts


def check_label(label: int, where: str) -> None:
    """Raise UserError unless `label` is -1 (unlabeled) or in [0, MAX_CLASSES). The message starts with `where`."""
    if not UNLABELED <= label < MAX_CLASSES:
        raise UserError(f"{where}: label {label} is out of range: use 0 to {MAX_CLASSES - 1}, or -1 if unlabeled")


def _iter_row_groups(images: Iterable[EncodedImage]) -> Iterator[list[EncodedImage]]:
    """Group consecutive images into the row groups of the file."""
    group: list[EncodedImage] = []
    size = 0
    for image in images:
        group.append(image)
        size += len(image.data)
        if len(group) == _MAX_ROWS_PER_GROUP or size >= _MAX_BYTES_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


class RawFile:
    """A raw file, open for reading.

    Attributes:
        path: path of the file.
        labels: label of each image, int64 (N,); -1 if unlabeled.
        splits: split of each image, str (N,).
        class_names: name of each class, indexed by label; empty if the dataset has no labels.

    Raises:
        UserError: if the file is missing, damaged or not a raw file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with translate_parquet_errors(path, "run rr fetch again"):
            self._file = pq.ParquetFile(path)
            columns = self._file.read(columns=["label", "split"])
            self.labels = columns["label"].to_numpy()
            self.splits = np.asarray(columns["split"].to_pylist())
            self.class_names = parse_class_names(self._file.schema_arrow.metadata)

    def read_names(self) -> list[str]:
        """Return the name of each image in file order.

        Raises:
            UserError: if the file is damaged.
        """
        with translate_parquet_errors(self.path, "run rr fetch again"):
            paths = self._file.read(columns=["image.path"])["image"]
            return [image["path"] for image in paths.to_pylist()]

    def iter_images(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the encoded bytes of each image in file order.

        Raises:
            UserError: if the file is damaged.
        """
        with translate_parquet_errors(self.path, "run rr fetch again"):
            for batch in self._file.iter_batches(batch_size=64, columns=["image"]):
                for image in batch.column("image"):
                    yield image["path"].as_py(), image["bytes"].as_py()

    def read_images(self, rows: Iterable[int]) -> dict[int, bytes]:
        """Return the encoded bytes of the images in `rows`, by row. Only the row groups that contain them are read.

        Raises:
            UserError: if the file is damaged.
        """
        todo, start = sorted(set(rows)), 0
        images: dict[int, bytes] = {}
        with translate_parquet_errors(self.path, "run rr fetch again"):
            for group in range(self._file.num_row_groups):
                stop = start + self._file.metadata.row_group(group).num_rows
                if inside := [row for row in todo if start <= row < stop]:
                    column = self._file.read_row_group(group, columns=["image"])["image"]
                    images |= {row: column[row - start]["bytes"].as_py() for row in inside}
                start = stop
        return images


@contextmanager
def translate_parquet_errors(path: Path, hint: str) -> Iterator[None]:
    """Convert pyarrow's errors about the Parquet file at `path` to a UserError whose message ends with `hint`."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        # pyarrow reports damage as an OSError without errno. An OSError with errno comes from the operating system.
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path} does not exist: {hint}") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path} is damaged or not a valid Parquet file ({' '.join(str(error).split())}): {hint}"
        ) from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode an RGB image, uint8 (H, W, 3), as lossless PNG.

    Raises:
        ValueError: if the pixels have another type.
    """
    if getattr(pixels, "dtype", None) != np.uint8:
        what = getattr(pixels, "dtype", type(pixels).__name__)
        raise ValueError(f"pixels must be an array of uint8, got {what}: convert the values to integers from 0 to 255")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
