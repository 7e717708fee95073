"""The one raw format: `images.parquet`, every picture in its original encoding.

Sources differ, and end here: `convert` reads this file alone. The columns are the Hugging Face convention's, so that
the file opens in the usual viewers: `image` (struct of `bytes` and `path`), `label` (int64, −1 where none is known)
and `split` ("train" before "test"). The class names stand in the schema's metadata.
"""

import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from rr.atomic import replacing
from rr.errors import UserError

SPLITS = ("train", "test")
UNLABELLED = -1
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
    ]
)
_ROWS_PER_GROUP = 1000


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
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            for row in group:
                counts[row.split] += 1
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
            self.class_names: list[str] = json.loads(self._file.schema_arrow.metadata[b"class_names"])
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): run rr fetch again") from error

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Yield (name, encoded bytes) in file order."""
        for batch in self._file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=["image"]):
            for image in batch.column("image"):
                yield image["path"].as_py(), image["bytes"].as_py()


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
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if side is not None and picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        wide = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((np.clip(wide, 0, 65535) / 65535 * 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
