"""Find identical and nearly identical images, using a perceptual hash and a thumbnail of each image."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

from rr.data.image_summary import is_blank

# Two images are near duplicates if at most 10 of the 64 bits of their hashes differ, and if the correlation of their
# thumbnails is above 0.95. In CIFAR-10 and CIFAR-100, about nine out of ten such pairs come from the same photograph.
MAX_HASH_DISTANCE = 10
MIN_CORRELATION = 0.95
_HASH_INPUT, _HASH_SIDE, _THUMBNAIL_SIDE = 32, 8, 8


class Signature(NamedTuple):
    """The properties of an image that are compared with those of other images.

    Attributes:
        digest: SHA-256 of the size and the pixels.
        hash: 64-bit perceptual hash.
        mirrored_hash: perceptual hash of the mirrored image.
        thumbnail: uint8 (8, 8, 3).
        height: height in pixels.
        width: width in pixels.
        is_blank: whether all pixels have almost the same color.
    """

    digest: bytes
    hash: int
    mirrored_hash: int
    thumbnail: np.ndarray
    height: int
    width: int
    is_blank: bool


class Duplicate(NamedTuple):
    """Two images that are identical or nearly identical.

    Attributes:
        kind: "exact duplicate", "near duplicate" or "mirrored duplicate".
        image: the row of the image that can be left out.
        other: the row of the image that it duplicates.
        correlation: correlation of the thumbnails, in [-1, 1].
    """

    kind: str
    image: int
    other: int
    correlation: float


def compute_signature(pixels: np.ndarray) -> Signature:
    """Return the signature of an RGB image, uint8 (H, W, 3).

    The hash is the "pHash" of the imagehash Python package: the image is reduced to 32 × 32 gray pixels, and each bit
    shows whether one of the 8 × 8 lowest frequencies in their cosine transform is above the median. The thumbnail
    consists of the means of 4 × 4 blocks of the same 32 × 32 pixels.
    """
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((_HASH_INPUT, _HASH_INPUT), Image.Resampling.LANCZOS, reducing_gap=3.0)
    frequencies = dctn(np.asarray(small.convert("L"), np.float64))[:_HASH_SIDE, :_HASH_SIDE]
    block = _HASH_INPUT // _THUMBNAIL_SIDE
    blocks = np.asarray(small, np.float32).reshape(_THUMBNAIL_SIDE, block, _THUMBNAIL_SIDE, block, 3)
    mirrored = frequencies * np.where(np.arange(_HASH_SIDE) % 2, -1, 1)  # mirroring negates the odd frequencies
    return Signature(
        digest=hashlib.sha256(f"{height} {width} ".encode() + pixels.tobytes()).digest(),
        hash=_hash_bits(frequencies),
        mirrored_hash=_hash_bits(mirrored),
        thumbnail=np.rint(blocks.mean((1, 3))).astype(np.uint8),
        height=height,
        width=width,
        is_blank=is_blank(pixels),
    )


def _hash_bits(frequencies: np.ndarray) -> int:
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def find_duplicates(signatures: Sequence[Signature], is_test: np.ndarray) -> tuple[list[Duplicate], np.ndarray]:
    """Find the images that can be left out because an identical or nearly identical image is kept.

    Test images take priority over training images, and within a split, earlier rows take priority. A training image is
    compared with all test images and with the training images that are kept. Blank images are checked only for exact
    duplicates, because their perceptual hashes are noise.

    The running time grows with the square of the number of images that are kept, at about a nanosecond per pair.

    Args:
        signatures: signatures of N images.
        is_test: whether each image is in the test split, bool (N,).

    Returns:
        The duplicates, in the order of their rows; and whether each image is a test image with an identical or nearly
        identical training image, bool (N,).
    """
    copies: dict[bytes, list[int]] = {}  # rows of identical images; test images come first in each list and in the dict
    for row in np.argsort(~is_test, kind="stable").tolist():
        copies.setdefault(signatures[row].digest, []).append(row)
    duplicates: list[Duplicate] = []
    in_train = np.zeros(len(signatures), bool)  # whether the image or an identical one is in the training split
    for rows in copies.values():
        duplicates += [Duplicate("exact duplicate", row, rows[0], 1.0) for row in rows[1:]]
        in_train[rows] = not is_test[rows].all()
    is_leaked = in_train.copy()
    search = _Search(signatures)
    for row in [rows[0] for rows in copies.values() if not signatures[rows[0]].is_blank]:
        matches = search.find(row)
        test_matches = [match for match in matches if is_test[match.other]]
        for match in test_matches:
            if in_train[row]:
                is_leaked[copies[signatures[match.other].digest]] = True
            if in_train[match.other]:
                is_leaked[copies[signatures[row].digest]] = True
        if matches:
            duplicates.append(max(test_matches or matches, key=lambda match: match.correlation))
        if is_test[row] or not matches:
            search.add(row)
    return sorted(duplicates, key=lambda duplicate: duplicate.image), is_leaked & is_test


class _Search:
    """Finds the near duplicates of an image among the images that have been added."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self._signatures = signatures
        self._rows = np.empty(len(signatures), np.int64)
        self._hashes = np.empty(len(signatures), np.uint64)
        self._count = 0

    def add(self, row: int) -> None:
        self._rows[self._count], self._hashes[self._count] = row, self._signatures[row].hash
        self._count += 1

    def find(self, row: int) -> list[Duplicate]:
        signature = self._signatures[row]
        duplicates = []
        for kind, value, thumbnail in (
            ("near duplicate", signature.hash, signature.thumbnail),
            ("mirrored duplicate", signature.mirrored_hash, signature.thumbnail[:, ::-1]),
        ):
            distances = np.bitwise_count(self._hashes[: self._count] ^ np.uint64(value))
            for other in self._rows[np.flatnonzero(distances <= MAX_HASH_DISTANCE)].tolist():
                correlation = _correlation(thumbnail, self._signatures[other].thumbnail)
                if correlation > MIN_CORRELATION:
                    duplicates.append(Duplicate(kind, row, other, correlation))
        return duplicates


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation coefficient of two thumbnails, or 0 if all values in a thumbnail are the same."""
    first, second = (values.ravel() - values.mean(dtype=np.float64) for values in (first, second))
    norms = np.sqrt(first @ first) * np.sqrt(second @ second)
    return float(first @ second / norms) if norms else 0.0
