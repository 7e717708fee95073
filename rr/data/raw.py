"""The one raw format: `images.parquet`, every picture in its original encoding.

Sources differ, and end here: `convert` reads this file alone. The columns are the Hugging Face convention's, so that
the file opens in the usual viewers: `image` (struct of `bytes` and `path`), `label` (int64, −1 where none is known)
and `split` ("train" before "test"). The class names stand in the schema's metadata.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from rr.data import class_names as names
from rr.errors import UserError
from rr.runtime.atomic import replacing

SPLITS = ("train", "test")
UNLABELLED = -1
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
    ]
)
CLASSES = 100_000  # more than any picture set has, and few enough to list
# Pictures of a camera are some megabytes each, so a group is bounded by its bytes as well.
_ROWS_PER_GROUP, _BYTES_PER_GROUP = 1000, 1 << 26


class Picture(NamedTuple):
    """One picture: its split, its name in messages, its encoded bytes, its label."""

    split: str
    path: str
    data: bytes
    label: int


class Pictures(NamedTuple):
    """What a source yields: the class names (empty when unlabelled) and the pictures, train before test."""

    class_names: list[str]
    rows: Iterable[Picture]


def write(target: Path, pictures: Pictures) -> dict[str, int]:
    """Write `target` in one step; return the number of pictures of each split. Raises UserError for an empty split."""
    counts = dict.fromkeys(SPLITS, 0)
    metadata = {"class_names": json.dumps(pictures.class_names)}
    rows = iter(pictures.rows)
    with replacing(target) as temporary, pq.ParquetWriter(temporary, _SCHEMA.with_metadata(metadata)) as writer:
        while group := _group(rows):
            for row in group:
                counts[row.split] += 1
                if not UNLABELLED <= row.label < CLASSES:
                    raise UserError(
                        f"{row.path}: the label {row.label} is none: labels count from 0, and -1 is for none"
                    )
            writer.write_table(
                pa.table(
                    {
                        "image": [{"bytes": row.data, "path": row.path} for row in group],
                        "label": [row.label for row in group],
                        "split": [row.split for row in group],
                    },
                    schema=_SCHEMA,
                )
            )
        for split, count in counts.items():
            if count == 0:
                raise UserError(f"{target}: no picture for the {split} split; add some, or raise test_share")
    return counts


def _group(rows: Iterator[Picture]) -> list[Picture]:
    """The next rows that are written together; empty at the end."""
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += len(row.data)
        if len(group) == _ROWS_PER_GROUP or size >= _BYTES_PER_GROUP:
            break
    return group


class RawFile:
    """An `images.parquet` open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when `path` is not such a file."""
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            columns = self._file.read(columns=["label", "split"])
            self.labels = columns["label"].to_numpy()
            self.splits = np.asarray(columns["split"].to_pylist())
            self.class_names = names.parse(self._file.schema_arrow.metadata)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield (name, encoded bytes) in file order. Raises UserError at a damaged page."""
        try:
            for batch in self._file.iter_batches(batch_size=64, columns=["image"]):
                for image in batch.column("image"):
                    yield image["path"].as_py(), image["bytes"].as_py()
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is damaged ({' '.join(str(error).split())}): run rr fetch again")


def encode(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) without loss, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode(data: bytes, side: int | None = None) -> np.ndarray:
    """Decode any picture that Pillow reads to uint8 RGB, (side, side, 3) when `side` is given.

    EXIF rotation is applied, transparency laid on white, 16 bits scaled to 8. A picture that is not side × side is
    resized by its shorter side (bicubic) and cropped to the centre. Raises ValueError for what Pillow cannot read.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ValueError("no picture format that Pillow knows") from error
    except MemoryError:
        raise  # says nothing about the picture
    except Exception as error:  # each of Pillow's many decoders has errors of its own
        raise ValueError(str(error) or type(error).__name__) from error
    if side is not None and picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        wide = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((wide / 65535 * 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit values have no known range: save it with 8 or 16 bits a channel")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
