"""Read and write an index: a Parquet file with the feature vectors of the images in a folder.

The columns are `path`, `vector`, `size` and `modified`; the last two reveal changed files. The schema metadata holds
everything else that determines a vector, so an index is reused only as long as it is valid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.data.printable_names import display_name, path_to_text
from rr.data.skipped_files import SkippedFiles
from rr.errors import UserError
from rr.gallery.feature_extractor import FeatureExtractor
from rr.gallery.images import ImageFile
from rr.runtime.atomic import atomic_write
from rr.runtime.hashing import json_sha256

_MAGIC = b"PAR1"  # the first bytes of every Parquet file


class ImageVectors(NamedTuple):
    """Images and their feature vectors, float32 (N, D)."""

    images: list[ImageFile]
    vectors: np.ndarray


class CachedVectors(NamedTuple):
    """The contents of an index: the row of each `ImageFile.index_key`, and the vectors, float32 (N, D)."""

    rows: dict[tuple[str, int, int], int]
    vectors: np.ndarray

    @classmethod
    def from_images(cls, images: Sequence[ImageFile], vectors: np.ndarray) -> "CachedVectors":
        """Return an object with the vectors of images, float32 (N, D)."""
        return cls({image.index_key: row for row, image in enumerate(images)}, vectors)

    @classmethod
    def empty(cls, num_features: int) -> "CachedVectors":
        """Return an object without vectors."""
        return cls({}, np.empty((0, num_features), np.float32))

    def find_rows(self, images: Sequence[ImageFile]) -> dict[Path, int]:
        """Return the row of each image whose vector is stored, by the path of the image."""
        # A name that is not valid UTF-8 may have the same text as a different name. Such names are not looked up.
        key_counts = Counter(image.index_key for image in images)
        return {
            image.path: self.rows[image.index_key]
            for image in images
            if image.index_key in self.rows and key_counts[image.index_key] == 1
        }


class StaleIndexError(Exception):
    """Raised if an index is damaged or was written with different settings.

    The message completes a sentence that starts with the path of the index.
    """


def default_index_path(extractor: FeatureExtractor, folder: Path) -> Path:
    """Return the default path of the index of `folder`.

    The path does not depend on the code that decodes images, so an index from another version of that code is replaced.
    """
    metadata = {name: value for name, value in extractor.metadata.items() if name != "decoding_code"}
    key = json_sha256([metadata, path_to_text(folder.resolve())])
    return paths.gallery_index(key[:32])


def write_index(
    target: Path, extractor: FeatureExtractor, folder: Path, batches: Iterable[ImageVectors], skipped: SkippedFiles
) -> int:
    """Write an index atomically and return its number of rows.

    Several processes may write the same index at the same time. The last one to finish determines its contents.
    `skipped` is the object to which unreadable images have been reported.

    Raises:
        UserError: if there are no rows. The message lists the unreadable images.
    """
    with atomic_write(target, concurrent=True) as temporary:
        return write_rows(temporary, extractor, folder, batches, skipped)


def write_rows(
    target: Path, extractor: FeatureExtractor, folder: Path, batches: Iterable[ImageVectors], skipped: SkippedFiles
) -> int:
    """Write an index like `write_index`, but not atomically.

    If `batches` raises an exception, the file contains the earlier batches.
    """
    schema = _make_schema(extractor, folder)
    count = 0
    with (
        open(target, "wb") as file,  # pyarrow accepts only names that are valid UTF-8
        pq.ParquetWriter(file, schema, use_dictionary=False, write_page_checksum=True) as writer,
    ):
        for images, vectors in batches:
            values = pa.array(vectors.reshape(-1), pa.float32())
            writer.write_table(
                pa.table(
                    {
                        "path": [image.name for image in images],
                        "vector": pa.FixedSizeListArray.from_arrays(values, extractor.num_features),
                        "size": [image.size for image in images],
                        "modified": [image.change_time_ns for image in images],
                    },
                    schema=schema,
                )
            )
            count += len(images)
        require_readable_images(count, folder, skipped)
    return count


def require_readable_images(num_readable: int, folder: Path, skipped: SkippedFiles) -> None:
    """Raise UserError if the number of readable images in `folder` is 0. The message lists the unreadable images."""
    if not num_readable:
        skipped.raise_if_unreadable()
        raise UserError(
            f"none of the images in {display_name(folder)} can be read: repair them or use a different folder"
        )


def read_index(path: Path, extractor: FeatureExtractor, folder: Path) -> CachedVectors:
    """Read the index at `path`; return no vectors if there is no such file.

    Raises:
        StaleIndexError: if the file is damaged, or belongs to a different folder or feature extractor.
    """
    schema = _make_schema(extractor, folder)
    try:
        with open(path, "rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()  # read_table loads pyarrow.dataset
        if not table.schema.equals(schema):
            raise StaleIndexError("has unexpected columns or vectors of a different length")
        metadata, expected = table.schema.metadata, schema.metadata
        differing = [key.decode() for key in expected if key != b"folder" and metadata.get(key) != expected[key]]
        if differing:
            names = {"side": "image size", "absolute_folder": "folder", "decoding_code": "decoding code"}
            raise StaleIndexError(
                f"was written with different settings ({', '.join(names.get(k, k) for k in differing)})"
            )
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), extractor.num_features)
        keys = zip(*(table[name].to_pylist() for name in ("path", "size", "modified")), strict=True)
        return CachedVectors({key: row for row, key in enumerate(keys)}, vectors)
    except FileNotFoundError:
        return CachedVectors.empty(extractor.num_features)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise StaleIndexError(f"is damaged ({' '.join(str(error).split())})") from error


def is_foreign_file(path: Path) -> bool:
    """Return whether `path` exists but is not an index, and must therefore not be overwritten.

    An empty file or a damaged Parquet file counts as an index, so that it can be replaced.
    """
    if not path.exists():
        return False
    if not path.is_file():
        return True
    with open(path, "rb") as file:
        start = file.read(len(_MAGIC))
        if start and start != _MAGIC:
            return True
        try:
            return not {"path", "vector", "size", "modified"} <= set(pq.read_schema(file).names)
        except (pa.ArrowException, OSError, ValueError):
            return False


def _make_schema(extractor: FeatureExtractor, folder: Path) -> pa.Schema:
    """Return the columns and the metadata of the index of `folder`."""
    folders = {"folder": path_to_text(folder), "absolute_folder": path_to_text(folder.resolve())}
    return pa.schema(
        [
            ("path", pa.string()),
            ("vector", pa.list_(pa.float32(), extractor.num_features)),
            ("size", pa.int64()),
            ("modified", pa.int64()),
        ],
        metadata=extractor.metadata | folders,
    )
