"""Decode images in all formats that Pillow supports to RGB pixels, and explain why data cannot be decoded."""

import io
import re
import warnings
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow rejects images above a size limit, and warns about images above half that limit, such as panoramas. A program
# that imports rr may have its own filter, which takes precedence.
warnings.simplefilter("ignore", Image.DecompressionBombWarning, append=True)
with suppress(ImportError):  # optional
    from pillow_heif import register_heif_opener

    # From here on, Pillow can open HEIC images. With thumbnails, `draft` would replace an image by its thumbnail.
    register_heif_opener(decode_threads=1, thumbnails=False)

UNSUPPORTED_FORMAT = "in a format that Pillow cannot read"
HEIC_FORMAT = "in the HEIC format"  # the reason why a file is not used if pillow-heif is not installed
# Formats that Pillow identifies, but can decode only with the help of other programs, if at all.
UNDECODABLE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}


class UnreadableImageError(ValueError):
    """Raised for data that cannot be decoded. `reason` is a short description under which such data is counted."""

    def __init__(self, message: str, reason: str = "an image that cannot be decoded") -> None:
        super().__init__(message)
        self.reason = reason


class DecodedImage(NamedTuple):
    """An RGB image that may have been decoded at a fraction of its size.

    Attributes:
        image: the image, with an extra column or row if the original size is not divisible by the reduction factor.
        box: left, top, right and bottom of the area in `image` that shows the original, in pixels.
        size: width and height of the original.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    size: tuple[int, int]


def decode_image(data: bytes | Image.Image, image_size: int | None = None) -> np.ndarray:
    """Decode an image and return its RGB pixels, uint8 (H, W, 3).

    All image formats that Pillow supports are accepted and, if pillow-heif is installed, HEIC images. EXIF rotation is
    applied, transparent pixels are blended with white, and 16-bit values are scaled to 8 bits. Damaged metadata (EXIF,
    text, color profiles) is ignored.

    Args:
        data: the encoded image, or a PIL image.
        image_size: height and width of the result in pixels. An image of a different size is center-cropped to a square
            and resized (bicubic). An encoded JPEG image whose sides are at least eight times as long is first decoded
            at a fraction of its size, which is faster. None keeps the image's size.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, (left, top, right, bottom), size = _decode_or_explain(data, image_size and 4 * image_size)
    if image_size is not None and size != (image_size, image_size):
        side = min(right - left, bottom - top)
        left, top = left + (right - left - side) / 2, top + (bottom - top - side) / 2
        square = (left, top, left + side, top + side)
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=square)
    return np.asarray(image)


def decode_photograph(data: bytes | Image.Image, stored_size: int) -> np.ndarray:
    """Decode an image like `decode_image`, and shrink it while keeping its aspect ratio (bicubic).

    Args:
        data: the encoded image, or a PIL image.
        stored_size: maximum length of the shorter side in pixels. An image is never enlarged.

    Returns:
        The RGB pixels, uint8 (H, W, 3).

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, box, size = _decode_or_explain(data, 2 * stored_size)
    if min(size) > stored_size:
        width, height = (max(round(side * stored_size / min(size)), 1) for side in size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


def decode_at_reduced_size(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an encoded image like `decode_image`, but decode JPEG images at 1/8 of their size.

    Returns:
        The RGB pixels, uint8 (H, W, 3), and the width and height of the image at its full size.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    image, _, size = _decode_or_explain(data, 1)
    return np.asarray(image), size


def has_several_frames(data: bytes) -> bool:
    """Return whether an encoded image has several frames, such as an animation or the pages of a TIFF image.

    The additional images that cameras store in a JPEG or HEIC image do not count.
    """
    if data.startswith(b"\xff\xd8\xff"):  # JPEG or MPO; opening the image would take almost as long as decoding it
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format not in ("JPEG", "MPO", "HEIF") and getattr(image, "is_animated", False)
    except Exception:  # Pillow's decoders raise many different exceptions
        return False


def has_16_bits(data: bytes) -> bool:
    """Return whether the values of an encoded image are stored with 16 bits.

    A 16-bit PGM image counts only if its stated maximum is 65535, because values with a smaller maximum are scaled.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            arguments = image.tile[0].args
            stored = str(arguments[0] if isinstance(arguments, tuple) else arguments)
            return image.mode.startswith("I;16") or stored.startswith(("I;16", "LA;16", "RGB;16", "RGBA;16", "RGBX;16"))
    except Exception:  # Pillow's decoders raise many different exceptions
        return False


def crop_center(pixels: np.ndarray, shorter_side: int, image_size: int) -> np.ndarray:
    """Resize an image so that its shorter side is `shorter_side` pixels long, and crop its center.

    The kernel in `rr.data.photograph_beton` and torchvision round differently, so their results differ slightly from
    those of this function.

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


def _decode_or_explain(data: bytes | Image.Image, draft_size: int | None) -> DecodedImage:
    """Decode an image to RGB, and translate Pillow's errors.

    If `draft_size` is given, a JPEG image may be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster.
    Its shorter side then has at least `draft_size` pixels.

    Raises:
        UnreadableImageError: if the image cannot be decoded, or if its value range is undefined.
    """
    try:
        return (
            _convert_pixels(data, data.size, data.size) if isinstance(data, Image.Image) else _decode(data, draft_size)
        )
    except MemoryError:
        raise  # this machine is short of memory; the image may be valid
    except Exception as error:  # Pillow's decoders raise many different exceptions
        if isinstance(error, UnreadableImageError):
            raise
        content = None if isinstance(data, Image.Image) else identify_unreadable_content(data)
        if content:
            raise UnreadableImageError(*content) from error
        if isinstance(error, Image.DecompressionBombError):
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise UnreadableImageError(f"more than {limit:,} pixels; save it at a smaller size, or split it") from error
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableImageError("Pillow does not recognize its format") from error
        raise UnreadableImageError(str(error) or type(error).__name__) from error


_MIN_ZEROS = 65  # bytes
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # a marker that starts a segment or ends the image
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"  # name and checksum of the last chunk
_PNG_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_QOI_END = bytes(7) + b"\1"
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
# Transpositions after which the left or top side of the image is a side that was on the right or at the bottom.
_LEFT_FROM_FAR_SIDE = {_TRANSPOSITIONS[orientation] for orientation in (2, 3, 6, 7)}
_TOP_FROM_FAR_SIDE = {_TRANSPOSITIONS[orientation] for orientation in (3, 4, 7, 8)}


def _decode(data: bytes, draft_size: int | None) -> DecodedImage:
    """Decode an image to RGB. If a PNG image's metadata prevents this, decode the image without it."""
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


def _decode_pixels(data: bytes, draft_size: int | None = None) -> DecodedImage:
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
        if _is_overwritten_with_zeros(data, image.format or "", size[0] * size[1]):
            raise UnreadableImageError("the end of the file contains only zeros, as after an interrupted copy")
        draft = image.draft(None, (draft_size, draft_size)) if draft_size else None
        return _convert_pixels(image, size, draft[1][2:] if draft else size)


def _is_overwritten_with_zeros(data: bytes, image_format: str, num_pixels: int) -> bool:
    """Return whether the compressed pixels of an image end in zeros that no encoder wrote.

    Only formats that Pillow decodes without an error in this case are checked. Without compression, zeros are black
    pixels.
    """
    if image_format in ("PNG", "ICO", "ICNS"):  # icons may contain several PNG images
        return data.endswith(bytes(4 + len(_PNG_END))) and data.count(_PNG_SIGNATURE) > data.count(_PNG_END)
    if image_format == "QOI":
        return data.endswith(bytes(len(_QOI_END))) and not data.rstrip(b"\0").endswith(_QOI_END)
    if image_format in ("JPEG", "MPO"):  # an MPO file contains several JPEG images, of which only the first one is read
        return data.endswith(bytes(_MIN_ZEROS)) and not _has_end_of_jpeg(data)
    if image_format not in ("WEBP", "AVIF", "HEIF"):
        return False
    kind, pixels = _find_compressed_pixels(data, image_format)
    num_zeros = len(pixels) - len(pixels.rstrip(b"\0"))
    if num_zeros < _MIN_ZEROS:
        return False
    # Encoders also write zeros: they are the codes of the most frequent values, for example of a large plain area at
    # the end of an image.
    if kind == b"VP8L":  # lossless: such a code takes up about one bit or less for each pixel and channel
        return 8 * num_zeros > 4 * num_pixels
    # Lossy: in intact images of noise above a plain area, up to 48% of the bytes were zeros. The data of AVIF and HEIC
    # images may end in metadata, whose zeros also count.
    return num_zeros > len(pixels) / 2


def _has_end_of_jpeg(data: bytes) -> bool:
    """Return whether the pixels of a JPEG image are followed by the "end of image" marker.

    Markers in segments, such as those of an embedded thumbnail, do not count.
    """
    position = 2  # after the "start of image" marker
    while match := _JPEG_MARKER.search(data, position):
        if match[0] == b"\xff\xd9":
            return True
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return False


def _find_compressed_pixels(data: bytes, image_format: str) -> tuple[bytes, bytes]:
    """Return the name and contents of the chunk or box that contains the pixels, or empty bytes (as for animations)."""
    start = 12 if image_format == "WEBP" else 0
    while start + 8 <= len(data):
        if image_format == "WEBP":
            kind, size = data[start : start + 4], int.from_bytes(data[start + 4 : start + 8], "little")
            if kind in (b"VP8 ", b"VP8L"):
                return kind, data[start + 8 : start + 8 + size]
            start += 8 + size + size % 2
        else:
            size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
            if kind == b"mdat":
                return kind, data[start + 8 : start + size if size > 1 else None]
            start += max(size, 8)
    return b"", b""


def _convert_pixels(image: Image.Image, size: tuple[int, int], box_size: tuple[float, float]) -> DecodedImage:
    """Convert an image to RGB and apply its EXIF rotation.

    `size` is the width and height of the original, and `box_size` those of the area in `image` that shows it.
    """
    if image.format in UNDECODABLE_FORMATS:  # whatever the file's suffix; Pillow would start Ghostscript for EPS
        raise UnreadableImageError(f"its format is {image.format}; convert it to PNG or JPEG")
    _rescale_transparent_color(image)
    image.load()
    rgb, transposition = _convert_to_rgb(image), _find_transposition(image)
    (width, height), (box_width, box_height) = size, box_size
    if transposition is None:
        return DecodedImage(rgb, (0, 0, box_width, box_height), size)
    rgb = rgb.transpose(transposition)
    if transposition in _ROTATIONS:
        width, height, box_width, box_height = height, width, box_height, box_width
    left = rgb.width - box_width if transposition in _LEFT_FROM_FAR_SIDE else 0
    top = rgb.height - box_height if transposition in _TOP_FROM_FAR_SIDE else 0
    return DecodedImage(rgb, (left, top, left + box_width, top + box_height), (width, height))


def _rescale_transparent_color(image: Image.Image) -> None:
    """Rescale the transparent color of a PNG image to the decoded values; Pillow leaves it at the file's bit depth."""
    color, tile = image.info.get("transparency"), getattr(image, "tile", None)  # a loaded image has no tile
    stored = str(tile[0].args) if image.format == "PNG" and tile else ""
    if stored in ("L;2", "L;4") and color is not None:
        max_value = 2 ** int(stored[2:]) - 1
        image.info["transparency"] = (color & max_value) * 255 // max_value
    elif stored.startswith("RGB;16") and color is not None:  # decoded to the upper 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _find_transposition(image: Image.Image) -> Image.Transpose | None:
    """Return the rotation or reflection that an image's EXIF data requires, or None. Ignore invalid EXIF data."""
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raises many different exceptions
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


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB with 8 bits per channel."""
    tags = getattr(image, "tag_v2", {})  # only TIFF images have them
    bits = tags.get(ExifTags.Base.BitsPerSample, (None,))[0]
    # Pillow reads 16-bit PGM images (and, before version 11.3, 16-bit PNG images) into 32-bit values.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        # Pillow would clip 16-bit values to 255 instead of scaling them.
        stored = np.asarray(image)
        values = stored / (2 ** (bits or 16) - 1)
        # 0 is white. Pillow inverts only values of up to 8 bits.
        if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
            values = 1 - values
        values = np.where(stored == image.info.get("transparency", -1), 1, values)
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
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


def identify_unreadable_content(data: bytes) -> tuple[str, str] | None:
    """Return what unreadable data contains, as a message and as a short reason for statistics, or None if unknown."""
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
            return name, "not an image, despite its suffix"
    if data[257:262] == b"ustar":
        return "a tar archive; extract it", "not an image, despite its suffix"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in _HEIC_BRANDS:
            return None if "HEIF" in Image.OPEN else ("a HEIC image; install pillow-heif to use it", HEIC_FORMAT)
        if brand in (b"avif", b"avis"):
            return None if "AVIF" in Image.OPEN else ("an AVIF image; convert it to JPEG or PNG", UNSUPPORTED_FORMAT)
        if brand == b"crx ":
            return "a raw photograph; convert it to JPEG", UNSUPPORTED_FORMAT
        return "a video; save frames of it as JPEG or PNG images", "not an image, despite its suffix"
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
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
