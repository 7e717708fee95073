"""Keep the images that `rr convert` has converted, so that it can continue after an interruption.

The images are kept in parts: files that are either complete or missing. No stage declares them as outputs.
"""

import hashlib
import io
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.data.beton import StoredImage
from rr.runtime.atomic import atomic_write

# A part ends after this many bytes or seconds, so a short conversion of small images writes no parts.
_MAX_BYTES, _MAX_SECONDS = 1 << 25, 30.0
_DIGEST_SIZE = hashlib.sha256().digest_size


class ConvertedImage(NamedTuple):
    """An image to store, the SHA-256 of its pixels, and the number of pixels with each value, int64 (3, 256)."""

    image: StoredImage
    sha256: str
    histogram: np.ndarray


class ConvertedParts:
    """The parts of an unfinished conversion.

    Args:
        folder: folder that holds the parts. It may be missing.
        fingerprint: hash of everything that determines the converted images. Parts with a different fingerprint are not
            used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._writes_parts = True

    def resume(self, split: str, convert: Callable[[int], Iterable[ConvertedImage]]) -> Iterator[ConvertedImage]:
        """Yield the kept images of a split, then the remaining images from `convert`, which are also kept.

        `convert` is called with the number of kept images. For each part, only the sum of the histograms is kept: the
        first image has this sum as its histogram, and all other images have zeros.
        """
        num_kept = 0
        for part_number in count():
            kept = self._read_part(split, part_number, num_kept)
            if not kept:
                break
            num_kept += len(kept)
            yield from kept
        part: list[tuple[StoredImage, str]] = []
        histogram, size, start = np.zeros((3, 256), np.int64), 0, time.monotonic()
        for image in convert(num_kept):
            if self._writes_parts:
                part.append((image.image, image.sha256))
                histogram += image.histogram
                size += len(image.image.data)
                if size >= _MAX_BYTES or time.monotonic() - start >= _MAX_SECONDS:
                    self._write_part(split, part_number, num_kept, part, histogram)
                    num_kept, part_number = num_kept + len(part), part_number + 1
                    part, histogram, size, start = [], np.zeros_like(histogram), 0, time.monotonic()
            yield image

    def delete(self) -> None:
        """Delete all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, split: str, part_number: int) -> Path:
        return self._folder / f"{split}-{part_number:06}.npz"

    def _write_part(
        self, split: str, part_number: int, first_image: int, part: list[tuple[StoredImage, str]], histogram: np.ndarray
    ) -> None:
        """Write a part with the histogram of its images. `first_image` is the number of images before it in the split.

        If this fails, delete all parts and stop keeping images, because the disk may be almost full.
        """
        buffer = io.BytesIO()
        np.savez(
            buffer,
            fingerprint=np.array(self._fingerprint),
            first_image=np.array(first_image),
            shapes=np.array([image[:3] for image, _ in part], np.int64),
            sizes=np.array([len(image.data) for image, _ in part], np.int64),
            data=np.frombuffer(b"".join(image.data for image, _ in part), np.uint8),
            sha256=np.array([sha256 for _, sha256 in part]),
            histogram=histogram,
        )
        try:
            with atomic_write(self._path(split, part_number)) as temporary, open(temporary, "wb") as file:
                file.write(hashlib.sha256(buffer.getbuffer()).digest())
                file.write(buffer.getbuffer())
        except OSError:
            self._writes_parts = False
            self.delete()

    def _read_part(self, split: str, part_number: int, first_image: int) -> list[ConvertedImage]:
        """Return the images of a part, or an empty list if it is missing, damaged, or from a different conversion.

        Where a part ends depends on time. Therefore, a part that an earlier conversion with the same fingerprint left
        behind may not begin at `first_image`. Such a part is not used.
        """
        try:
            content = memoryview(self._path(split, part_number).read_bytes())
        except FileNotFoundError:
            return []
        digest, content = bytes(content[:_DIGEST_SIZE]), content[_DIGEST_SIZE:]
        if digest != hashlib.sha256(content).digest():
            return []
        with np.load(io.BytesIO(content)) as file:
            if str(file["fingerprint"]) != self._fingerprint or int(file["first_image"]) != first_image:
                return []
            arrays = {name: file[name] for name in ("shapes", "sizes", "data", "sha256", "histogram")}
        data, ends = memoryview(arrays["data"]), np.cumsum(arrays["sizes"]).tolist()
        histograms = [arrays["histogram"], *[np.zeros_like(arrays["histogram"])] * (len(ends) - 1)]
        return [
            ConvertedImage(StoredImage(mode, height, width, data[end - size : end]), str(sha256), histogram)
            for (mode, height, width), size, end, sha256, histogram in zip(
                arrays["shapes"].tolist(), arrays["sizes"].tolist(), ends, arrays["sha256"], histograms, strict=True
            )
        ]
