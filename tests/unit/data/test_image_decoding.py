"""Tests of image decoding: formats, value ranges, EXIF data, damaged metadata, and data that are not images."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, features

from rr.data.image_decoding import (
    UnreadableImageError,
    decode_at_reduced_size,
    decode_image,
    decode_photograph,
    has_several_frames,
)
from rr.data.raw import encode_png

Image.init()  # loads the plugins
# Pillow reads and writes these formats. Formats are left out if they need another program (BUFR, EPS, GRIB, HDF5, WMF),
# contain only floating-point numbers (SPIDER) or are deprecated (IM).
READ_AND_WRITTEN = Image.SAVE.keys() & Image.OPEN.keys() - {"BUFR", "EPS", "GRIB", "HDF5", "WMF", "SPIDER", "IM"}


def encode(image: Image.Image, image_format: str, **options: object) -> bytes | None:
    """Return the encoded image, or None if the format does not support the image's mode."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, image_format, **options)
    except (OSError, ValueError, KeyError):
        return None
    return buffer.getvalue()


def test_png_is_lossless() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(decode_image(encode_png(pixels), 32), pixels)


@pytest.mark.parametrize("size", [(800, 600), (519, 513), (513, 1031)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpeg_images_are_decoded_at_a_fraction_of_their_size(size: tuple[int, int], orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    photograph = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=95, exif=exif)
    full = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))).convert("RGB")
    # Only an image whose sides are at least eight times as long as `side` is decoded at a fraction of its size.
    limit = min(size) // 8
    for side, (low, high) in {limit + 1: (0, 0), limit: (1e-3, 0.6), limit // 2: (1e-3, 0.6)}.items():
        expected = np.asarray(ImageOps.fit(full, (side, side), Image.Resampling.BICUBIC)).astype(int)
        assert low <= np.abs(decode_image(buffer.getvalue(), side) - expected).mean() <= high
    shape = [max(round(side * 32 / min(full.size)), 1) for side in full.size]
    expected = np.asarray(full.resize((shape[0], shape[1]), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode_photograph(buffer.getvalue(), 32) - expected).mean() < 1


# HEIC files, written with pillow-heif 1.8.1 from the image below: as it is; with the EXIF orientation "rotate by 90
# degrees"; with 10 bits per channel; with a transparent right half; and followed by a second image.
HEIC_FOLDER = Path(__file__).parent / "heic"
Y, X = np.mgrid[:60, :80]
HEIC_PIXELS = np.stack([X * 3, Y * 4, (X + Y) * 1.5], -1).clip(0, 255).astype(np.uint8)
HEIC_PIXELS[:20, :30] = [255, 0, 0]


@pytest.mark.parametrize("name", ["photograph", "rotated", "ten_bits", "transparent", "two_images"])
def test_heic_images_are_decoded(name: str) -> None:
    data = (HEIC_FOLDER / f"{name}.heic").read_bytes()
    expected = HEIC_PIXELS.astype(int)
    if name == "rotated":
        expected = np.rot90(expected, -1)
    if name == "transparent":
        expected[:, 40:] = 255
    pixels = decode_image(data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 3  # the compression is lossy
    assert decode_image(data, 16).shape == (16, 16, 3)
    assert min(decode_photograph(data, 30).shape[:2]) == 30
    assert not has_several_frames(data)


def test_thumbnail_does_not_replace_a_heic_image() -> None:
    data = (HEIC_FOLDER / "thumbnail.heic").read_bytes()  # 600 x 450 pixels, with a thumbnail of 160 x 120 pixels
    pixels, size = decode_at_reduced_size(data)
    assert (pixels.shape, size) == ((450, 600, 3), (600, 450))
    start = data.index(b"mdat") + 8
    damaged = data[:start] + bytes(value ^ 85 for value in data[start:])
    for decode in (decode_image, decode_at_reduced_size, lambda data: decode_image(data, 16)):
        with pytest.raises(UnreadableImageError):
            decode(damaged)


def test_heic_images_need_pillow_heif() -> None:
    program = f"""
import sys
sys.modules["pillow_heif"] = None
from pathlib import Path
from rr.data.folder_listing import image_kind, list_folder
from rr.data.image_decoding import HEIC_FORMAT, UnreadableImageError, decode_image
from rr.data.skipped_files import format_skipped
folder = Path({str(HEIC_FOLDER)!r})
listing = list_folder(folder, image_kind())
assert not listing.files
assert {{file.reason for file in listing.skipped}} == {{HEIC_FORMAT}}
(line,) = format_skipped({{HEIC_FORMAT: {{".heic": 2}}}})
assert line == "skipped 2 files: in the HEIC format (.heic 2); install pillow-heif to use them"
try:
    decode_image((folder / "photograph.heic").read_bytes())
except UnreadableImageError as error:
    assert str(error) == "a HEIC image; install pillow-heif to use it"
    assert error.reason == HEIC_FORMAT
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_damaged_heic_image_is_rejected(kept: float) -> None:
    data = (HEIC_FOLDER / "photograph.heic").read_bytes()
    num_kept = round(kept * len(data))
    with pytest.raises(UnreadableImageError):
        decode_image(data[:num_kept])
    if kept < 0.9:
        with pytest.raises(UnreadableImageError):
            decode_image(data[:num_kept] + bytes(len(data) - num_kept))


def test_gray_and_palette_images_become_rgb() -> None:
    gray = Image.fromarray(np.full((9, 9), 77, np.uint8))
    assert (decode_image(encode(gray, "PNG")) == 77).all()
    palette = Image.new("RGB", (9, 9), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert tuple(decode_image(encode(palette, "PNG"))[0, 0]) == (10, 200, 30)


def test_16_bit_values_are_scaled() -> None:
    image = Image.fromarray(np.full((8, 8), 32896, np.uint16))
    assert (decode_image(encode(image, "PNG")) == 128).all()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(np.int16, "signed 16-bit integers"), (np.int32, "32-bit integers"), (np.float32, "floating-point numbers")],
)
def test_values_without_a_range_raise(kind: type, name: str) -> None:
    buffer = io.BytesIO()
    if kind is np.int16:
        Image.fromarray(np.full((8, 8), 200, np.uint16)).save(buffer, "TIFF", tiffinfo={ExifTags.Base.SampleFormat: 2})
    else:
        Image.fromarray(np.full((8, 8), 200, kind)).save(buffer, "TIFF")
    with pytest.raises(UnreadableImageError, match=f"its values are {name}, so the range from black to white is"):
        decode_image(buffer.getvalue())


def test_16_bit_tiff_in_which_zero_is_white_is_not_inverted() -> None:
    buffer = io.BytesIO()
    options = {ExifTags.Base.PhotometricInterpretation: 0}
    Image.fromarray(np.full((8, 8), 65535 // 5, np.uint16)).save(buffer, "TIFF", tiffinfo=options)
    assert (decode_image(buffer.getvalue()) == 204).all()


@pytest.mark.parametrize("max_value", [65535, 4095])
@pytest.mark.parametrize("is_text", [False, True])
def test_16_bit_pgm_is_scaled(max_value: int, is_text: bool) -> None:
    values = np.linspace(0, max_value, 72).round().astype(np.uint16).reshape(8, 9)
    header = f"P{2 if is_text else 5}\n9 8\n{max_value}\n".encode()
    data = " ".join(map(str, values.ravel())).encode() if is_text else values.astype(">u2").tobytes()
    pixels = decode_image(header + data)
    assert np.abs(pixels[..., 0] - values / max_value * 255).max() <= 0.51
    assert (pixels == pixels[..., :1]).all()


def make_png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    "chunk",
    [
        make_png_chunk(b"eXIf", b"not EXIF data"),
        make_png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        make_png_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2 << 20))),
        make_png_chunk(b"zTXt", b"key\0\7"),
        make_png_chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        make_png_chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(2 << 20))),
        make_png_chunk(b"pHYs", b"?"),
        make_png_chunk(b"tEXt", b"key\0text")[:-1] + b"?",
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_png_with_damaged_or_large_metadata_is_read(chunk: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    data = encode_png(pixels)
    assert np.array_equal(decode_image(data[:33] + chunk + data[33:]), pixels)
    with pytest.raises(UnreadableImageError):
        decode_image(data[:33] + chunk + data[33:-40])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((48, 32)).save(buffer, image_format, exif=exif)
    with Image.open(buffer) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode_image(buffer.getvalue()), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "the file contains only zeros, as after an interrupted copy"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer .* run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--2.jpg\n", "a git-annex pointer .* run `git annex get` or `datalad get`"),
        (b"../.git/annex/objects/xx/SHA", "a git-annex pointer"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>\n<html>", "an HTML page"),
        (b"<HTML><body>404", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML document"),
        (b'{"message": "Not Found"}', "a JSON document"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "a raw photograph; convert it to JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video; save frames of it as JPEG or PNG images"),
        (b"something else", "Pillow does not recognize its format"),
    ],
)
def test_message_names_what_unreadable_data_contain(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        decode_image(data)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100}), ("WEBP", {"exif": bytes(9000)})],
)
def test_image_whose_second_half_is_zeros_is_damaged(image_format: str, options: dict) -> None:
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, image_format, **options)
    data = buffer.getvalue()
    assert decode_image(data).shape == pixels.shape
    half = len(data.rstrip(b"\0")) // 2
    with pytest.raises(UnreadableImageError, match="the end of the file contains only zeros, as after an interrupted"):
        decode_image(data[:half] + bytes(len(data) - half))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
def test_jpeg_image_that_ends_in_zeros_is_damaged(kept: float, quality: int, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    photograph = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    thumbnail = io.BytesIO()  # stored in the metadata; its end marker must not be taken for that of the photograph
    photograph.resize((80, 60)).save(thumbnail, "JPEG")
    buffer = io.BytesIO()
    options = {"quality": quality, "progressive": progressive, "restart_marker_rows": 4}
    photograph.save(buffer, "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue(), **options)
    data = buffer.getvalue()
    assert np.array_equal(decode_image(data + bytes(5000)), decode_image(data))  # some programs pad files
    num_kept = int(kept * len(data))
    for draft_size in (None, 32):
        with pytest.raises(UnreadableImageError):
            decode_image(data[:num_kept] + bytes(len(data) - num_kept), draft_size)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
@pytest.mark.parametrize("image_format", ["PNG", "ICO", "ICNS", "QOI"])
@pytest.mark.parametrize("num_zeros", [20, 4096, 12000])
def test_image_without_its_end_marker_is_damaged(image_format: str, mode: str, num_zeros: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 4), np.uint8)
    data = encode(Image.fromarray(noise).convert(mode), image_format)
    if data is None:
        pytest.skip(f"{image_format} images of mode {mode} do not exist")
    assert np.array_equal(decode_image(data + bytes(5000)), decode_image(data))  # some programs pad files
    num_zeros = min(num_zeros, len(data) // 2)
    with pytest.raises(UnreadableImageError):
        decode_image(data[:-num_zeros] + bytes(num_zeros))


@pytest.mark.parametrize("image_format", sorted(READ_AND_WRITTEN))
@pytest.mark.parametrize("num_rows", [0, 1, 50])  # rows of noise above a black area
def test_image_that_ends_in_black_is_not_damaged(image_format: str, num_rows: int) -> None:
    pixels = np.zeros((256, 256), np.uint8)
    pixels[:num_rows] = np.random.default_rng(0).integers(0, 256, (num_rows, 256), np.uint8)
    num_decoded = 0
    for mode in ("RGB", "RGBA", "L", "P", "1", "I;16"):
        for options in ({}, {"compression": "tiff_deflate"}, {"lossless": True}, {"compress_level": 0}):
            data = encode(Image.fromarray(pixels).convert(mode), image_format, **options)
            if data is not None:
                assert np.array_equal(decode_image(data + bytes(5000)), decode_image(data))
                num_decoded += 1
    assert num_decoded


def test_mpo_file_needs_only_its_first_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    photograph = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    photograph.save(buffer, "MPO", save_all=True, append_images=[photograph])
    data = buffer.getvalue()
    last_quarter = len(data) // 4
    assert decode_image(data[:-last_quarter] + bytes(last_quarter)).shape == (240, 320, 3)
    with pytest.raises(UnreadableImageError):
        decode_image(data[:last_quarter] + bytes(len(data) - last_quarter))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (9, 5), (64, 64), (700, 500)])
def test_image_with_a_large_plain_area_is_not_damaged(size: tuple[int, int], lossless: bool) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[: size[0] // 4, : size[1] // 4] = [0, 0, 255]
    for quality in (0, 95):  # at the lowest quality and method, 98% of the bytes of a lossless image are zeros
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=lossless, quality=quality, method=0)
        assert decode_image(buffer.getvalue()).shape == pixels.shape


def test_number_of_pixels_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    with pytest.raises(UnreadableImageError, match="more than 160 pixels; save it at a smaller size, or split it"):
        decode_image(encode(Image.new("L", (20, 10)), "PNG"))


def test_large_image_causes_no_warning() -> None:
    code = (
        "import numpy as np; from PIL import Image; from rr.data.image_decoding import decode_image; "
        "from rr.data.raw import encode_png; Image.MAX_IMAGE_PIXELS = 80; "
        "decode_image(encode_png(np.ones((10, 10, 3), 'uint8')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr == b""


def test_transparent_pixels_become_white() -> None:
    transparent = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (decode_image(encode(transparent, "PNG")) == 255).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("is_rgb", [False, True])
def test_transparent_color_becomes_white(bits: int, is_rgb: bool) -> None:
    """A tRNS chunk contains the color in the bit depth of the PNG file."""
    if is_rgb and bits < 8:
        pytest.skip("PNG images with these depths are gray")
    max_value = 2**bits - 1
    values = np.linspace(0, max_value, min(max_value, 15) + 1).astype(np.uint16)
    samples = values.repeat(3) if is_rgb else values
    row = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, -bits:].ravel()
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 2 if is_rgb else 0, 0, 0, 0)
    pixels = make_png_chunk(b"IDAT", zlib.compress(b"\0" + np.packbits(row).tobytes())) + make_png_chunk(b"IEND", b"")
    for key in values.tolist():
        transparency = make_png_chunk(b"tRNS", struct.pack(">H", key) * (3 if is_rgb else 1))
        data = b"\x89PNG\r\n\x1a\n" + make_png_chunk(b"IHDR", header) + transparency + pixels
        expected = np.where(values == key, 255, values / max_value * 255)
        assert np.abs(decode_image(data)[0, :, 0] - expected).max() <= 1


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (20, 20), (7, 300)])
def test_any_size_is_resized(size: tuple[int, int]) -> None:
    assert decode_image(encode(Image.new("RGB", size, "red"), "PNG"), 32).shape == (32, 32, 3)
