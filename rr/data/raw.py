"""Read and write the raw format: `images.parquet` holds all images of a dataset in their original encoding.

`rr fetch` writes every kind of source in this format, and `rr convert` reads only this format. The columns follow the
Hugging Face convention, so the usual viewers can open the file: `image` (a struct of `bytes` and `path`), `label`
(int64, -1 if unlabeled) and `split` ("train" or "test"; the training images come first). The schema metadata holds the
class names.
"""

import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rr.data.class_names import parse_class_names
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
# A photograph may take up several megabytes, so the number of bytes in a row group is limited too.
_MAX_ROWS_PER_GROUP, _MAX_BYTES_PER_GROUP = 1000, 1 << 26

# Pillow rejects images above a size limit, and warns about images above half that limit, such as panoramas.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class EncodedImage(NamedTuple):
    """An encoded image with its split and label. `name` identifies the image in error messages."""

    split: str
    name: str
    data: bytes
    label: int


class RawDataset(NamedTuple):
    """A dataset from any source.

    Attributes:
        class_names: name of each class, indexed by label; empty if the dataset is unlabeled.
        images: the images, with the training split first.
        num_images: number of images, or None if unknown.
        facts: facts about the source, for the record: `splits` (the origin of each split) and, for Parquet files,
            `files`, `columns` and `schema`.
    """

    class_names: list[str]
    images: Iterable[EncodedImage]
    num_images: int | None = None
    facts: Mapping[str, Any] = MappingProxyType({})


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
    """Convert pyarrow's errors about the Parquet file `path` to a UserError whose message ends with `hint`."""
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
    """Encode an RGB image, uint8 (H, W, 3), as lossless PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class UnreadableImageError(ValueError):
    """Raised for data that cannot be decoded. `reason` is a short description under which such data are counted."""

    def __init__(self, message: str, reason: str = "an image that cannot be decoded") -> None:
        super().__init__(message)
        self.reason = reason


def decode_image(data: bytes, image_size: int | None = None) -> np.ndarray:
    """Decode an encoded image and return its RGB pixels, uint8 (H, W, 3).

    All image formats that Pillow supports are accepted. EXIF rotation is applied, transparent pixels are blended with
    white, and 16-bit values are scaled to 8 bits. Damaged metadata (EXIF, texts, color profiles) is ignored.

    Args:
        data: the encoded image.
        image_size: height and width of the result in pixels. An image of a different size is center-cropped to a square
            and resized (bicubic). None keeps the image's size.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, _ = _decode_or_explain(data)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def decode_photograph(data: bytes, stored_size: int) -> np.ndarray:
    """Decode an encoded image like `decode_image`, and shrink it while keeping its aspect ratio (bicubic).

    Args:
        data: the encoded image.
        stored_size: maximum length of the shorter side in pixels. An image is never enlarged.

    Returns:
        The RGB pixels, uint8 (H, W, 3).

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, _ = _decode_or_explain(data, 2 * stored_size)
    shorter_side = min(image.size)
    if shorter_side > stored_size:
        width, height = (max(round(side * stored_size / shorter_side), 1) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def decode_quickly(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an encoded image like `decode_image`, but JPEG images at 1/8 of their size.

    Returns:
        The RGB pixels, uint8 (H, W, 3), and the width and height of the image at its full size.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, size = _decode_or_explain(data, 1)
    return np.asarray(image), size


def has_several_frames(data: bytes) -> bool:
    """Return whether an encoded image has several frames, such as an animation or the pages of a TIFF image.

    The additional images that cameras store in a JPEG image do not count.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False)
    except Exception:  # Pillow's decoders raise many different exceptions
        return False


def crop_center(pixels: np.ndarray, shorter_side: int, image_size: int) -> np.ndarray:
    """Resize an image so that its shorter side is `shorter_side` pixels long, and crop its center.

    The kernel in `rr.data.photographs` and torchvision round differently, so their results differ slightly.

    Args:
        pixels: uint8 (H, W, 3).
        shorter_side: length of the shorter side in pixels, at least `image_size`.
        image_size: height and width of the result in pixels.

    Returns:
        uint8 (image_size, image_size, 3).
    """
    image = Image.fromarray(pixels)
    width, height = (int(shorter_side * side / min(image.size)) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + image_size, top + image_size)))


def _decode_or_explain(data: bytes, draft_size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image to RGB, and translate Pillow's errors.

    If `draft_size` is given, a JPEG image may be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster.
    Its shorter side then has at least `draft_size` pixels.

    Returns:
        The decoded image, and its width and height at full size.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    try:
        return _decode(data, draft_size)
    except MemoryError:
        raise  # this machine is short of memory; the image may be valid
    except Exception as error:  # Pillow's decoders raise many different exceptions
        if isinstance(error, UnreadableImageError):
            raise
        content = identify_content(data)
        if content:
            raise UnreadableImageError(*content) from error
        if isinstance(error, Image.DecompressionBombError):
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise UnreadableImageError(f"more than {limit:,} pixels; save it at a smaller size, or split it") from error
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableImageError("not an image format that Pillow can read") from error
        raise UnreadableImageError(str(error) or type(error).__name__) from error


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROTATIONS = {_TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8)}  # those that swap width and height


def _decode(data: bytes, draft_size: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image to RGB. If the metadata of a PNG image prevents this, decode the image without it."""
    try:
        return _decode_pixels(data, draft_size)
    except (UnreadableImageError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        if not data.startswith(_PNG_SIGNATURE) or len(pixels_only := _drop_png_metadata(data)) == len(data):
            raise
        try:
            return _decode_pixels(pixels_only)
        except UnreadableImageError:
            raise
        except Exception:
            raise error from None


def _decode_pixels(data: bytes, draft_size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if draft_size:
            image.draft(None, (draft_size, draft_size))
        image.load()
        rgb, transposition = _to_rgb(image), _find_transposition(image)
        if transposition is None:
            return rgb, (width, height)
        return rgb.transpose(transposition), (height, width) if transposition in _ROTATIONS else (width, height)


def _find_transposition(image: Image.Image) -> Image.Transpose | None:
    """Return the rotation or reflection that an image's EXIF data require, or None. Ignore invalid EXIF data."""
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise many different exceptions
        return None


def _drop_png_metadata(data: bytes) -> bytes:
    """Return a PNG image without ancillary chunks such as text, but with its transparency and EXIF data."""
    parts, start = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] in _PNG_PIXEL_CHUNKS:
            parts.append(data[start:end])
        start = end
    return b"".join(parts)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB with 8 bits per channel."""
    tags = getattr(image, "tag_v2", {})  # only TIFF images have them
    bits = tags.get(ExifTags.Base.BitsPerSample, (None,))[0]
    # Pillow reads 16-bit PGM images (and, before version 11.3, 16-bit PNG images) into 32-bit values.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        # Pillow would clip 16-bit values to 255 instead of scaling them.
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray((values / (2 ** (bits or 16) - 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = (
            "floating-point numbers"
            if image.mode == "F"
            else f"{'signed ' if bits == 16 else ''}{bits or 32}-bit integers"
        )
        raise UnreadableImageError(
            f"its values are {kind}, so the range from black to white is undefined; save it with 8 or 16 unsigned bits "
            "per channel"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def identify_content(data: bytes) -> tuple[str, str] | None:
    """Return what unreadable data contain, as a message and as a reason to count it under, or None if unknown."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()  # a byte order mark and spaces may precede text
    if not data:
        return "the file is empty", "an empty file"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file; run `git lfs pull`", "a Git LFS pointer"
    if start.startswith((b"/annex/objects/", b".git/annex/", b"../")) and b"annex/objects/" in start:
        return "a git-annex pointer instead of the file; run `git annex get` or `datalad get`", "a git-annex pointer"
    if not data.strip(b"\0"):
        return "the file contains only zeros, as after an interrupted copy", "an empty file"
    for signature, name in _OTHER_SIGNATURES.items():
        if start.startswith(signature):
            return name, "not an image in spite of its suffix"
    if data[257:262] == b"ustar":
        return "a tar archive; extract it", "not an image in spite of its suffix"
    if data[4:8] == b"ftyp":
        name = "a HEIC or AVIF image" if data[8:12] in _HEIF_BRANDS else "a video"
        return f"{name}, which Pillow cannot read; convert it to JPEG or PNG", "in a format that Pillow cannot read"
    return None


_OTHER_SIGNATURES = {
    b"<!doctype html": "an HTML page (from a failed download?)",
    b"<html": "an HTML page (from a failed download?)",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document (from a failed download?)",
    b"{": "a JSON document (from a failed download?)",
    b"%pdf": "a PDF document",
    b"ivborw0kggo": "an image encoded as base64 text; decode it",
    b"/9j/": "an image encoded as base64 text; decode it",
    b"data:image/": "an image encoded as base64 text; decode it",
    b"\x93numpy": "a NumPy array; save it as PNG",
    b"\x89hdf": "an HDF5 file",
    b"pk\x03\x04": "a zip archive; extract it",
    b"\x1f\x8b": "a gzip archive; extract it",
    b"rar!\x1a": "a RAR archive; extract it",
    b"7z\xbc\xaf": "a 7z archive; extract it",
}
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
