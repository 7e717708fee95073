"""Read and write the raw format: `images.parquet` holds all images of a dataset in their original encoding.

`rr fetch` writes every kind of source in this format, and `rr convert` reads nothing else. The columns follow the
Hugging Face convention, so the usual viewers can open the file: `image` (a struct of `bytes` and `path`), `label`
(int64, -1 if unlabeled) and `split` ("train" or "test"; the training images come first). The schema metadata holds the
class names.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from rr.data.class_names import parse_class_names
from rr.errors import UserError
from rr.runtime.atomic import atomic_write

SPLITS = ("train", "test")
UNLABELED = -1
UnreadablePolicy = Literal["raise", "skip"]  # what to do with an image that cannot be decoded
MAX_CLASSES = 100_000  # more than in any image dataset, but few enough for a list of all class names
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("split", pa.string()),
    ]
)
# A photograph may take up several megabytes, so the bytes of a row group are limited too.
_MAX_ROWS_PER_GROUP, _MAX_BYTES_PER_GROUP = 1000, 1 << 26


class EncodedImage(NamedTuple):
    """An encoded image with its split and label. `name` identifies the image in error messages."""

    split: str
    name: str
    data: bytes
    label: int


class RawDataset(NamedTuple):
    """The class names of a dataset (empty if it is unlabeled) and its images, with the training split first."""

    class_names: list[str]
    images: Iterable[EncodedImage]


def write(path: Path, dataset: RawDataset) -> dict[str, int]:
    """Write a dataset to a raw file, atomically, and return the number of images per split.

    Raises:
        UserError: if a split has no images, or if a label is out of range.
    """
    counts = dict.fromkeys(SPLITS, 0)
    metadata = {"class_names": json.dumps(dataset.class_names)}
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA.with_metadata(metadata)) as writer:
        for group in _iter_row_groups(dataset.images):
            for image in group:
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
                    f"{path} was not written, because the {split} split has no images: add images to the source. If "
                    "the source has no test images of its own, another test_fraction may help too"
                )
    return counts


def check_label(label: int, where: str) -> None:
    """Raise UserError unless `label` is -1 (unlabeled) or a class below MAX_CLASSES. `where` is for the message."""
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

    def iter_images(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the encoded bytes of each image in file order.

        Raises:
            UserError: if the file is damaged.
        """
        with translate_parquet_errors(self.path, "run rr fetch again"):
            for batch in self._file.iter_batches(batch_size=64, columns=["image"]):
                for image in batch.column("image"):
                    yield image["path"].as_py(), image["bytes"].as_py()


@contextmanager
def translate_parquet_errors(path: Path, hint: str) -> Iterator[None]:
    """Convert errors of pyarrow about the Parquet file `path` to a UserError whose message ends with `hint`."""
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
    """Encode an RGB image, uint8 (H, W, 3), as PNG without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_image(data: bytes, image_size: int | None = None) -> np.ndarray:
    """Decode an encoded image and return its RGB pixels, uint8 (H, W, 3).

    All image formats that Pillow supports are accepted. EXIF rotation is applied, transparent pixels are blended with
    white, and 16-bit values are scaled to 8 bits.

    Args:
        data: the encoded image.
        image_size: height and width of the result in pixels. An image of another size is center-cropped to a square
            and resized (bicubic). None keeps the size of the image.

    Raises:
        ValueError: if Pillow cannot read the image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = _to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise ValueError("not an image format that Pillow can read") from error
    except MemoryError:
        raise  # this machine is short of memory; the image may be valid
    except Exception as error:  # Pillow's decoders raise many different exceptions
        raise ValueError(str(error) or type(error).__name__) from error
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB with 8 bits per channel."""
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit values to 255 instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray((values / 65535 * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit values have no defined range; save it with 8 or 16 bits per channel")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
