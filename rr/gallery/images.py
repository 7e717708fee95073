"""List the image files of a folder, detect changed files and decode them."""

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from PIL import Image

from rr.data import raw
from rr.errors import UserError

_MAX_THREADS = min(8, os.cpu_count() or 1)  # each thread may hold a photograph that takes up a hundred megabytes


class ImageFile(NamedTuple):
    """An image file of a gallery.

    Attributes:
        path: path of the file.
        name: path relative to the gallery folder, as text.
        size: size in bytes.
        modified: time of the last modification, in nanoseconds since 1970.
    """

    path: Path
    name: str
    size: int
    modified: int

    @property
    def index_key(self) -> tuple[str, int, int]:
        """Name, size and modification time. A changed file has a different key, so its old vector is not found."""
        return self.name, self.size, self.modified


def list_images(folder: Path) -> list[ImageFile]:
    """Return all image files in `folder` and its subfolders, sorted by name.

    Image files are recognized by their suffix. Files and folders whose name starts with a dot are skipped, and symbolic
    links to folders are not followed.

    Raises:
        UserError: if `folder` is not a folder or contains no images.
        OSError: if a subfolder cannot be listed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not an existing folder: give a folder of images")
    suffixes = _image_suffixes()
    images = []
    for parent, subfolders, file_names in os.walk(folder, onerror=_reraise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = os.path.relpath(parent, folder)
        prefix = "" if relative == os.curdir else f"{relative}/"
        for name in file_names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            path = os.path.join(parent, name)
            try:
                info = os.stat(path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    continue  # a dangling link, or a file that was just deleted
                raise
            if stat.S_ISREG(info.st_mode):
                images.append(ImageFile(Path(path), path_to_text(prefix + name), info.st_size, info.st_mtime_ns))
    if not images:
        raise UserError(f"{folder} contains no images: add some (.jpg, .png, …) or give another folder")
    return sorted(images, key=lambda image: image.name)


def decode_batches(
    images: Sequence[ImageFile], image_size: int, batch_size: int, on_unreadable: raw.UnreadablePolicy
) -> Iterator[tuple[list[ImageFile], np.ndarray]]:
    """Yield the images that can be read, and their pixels, in batches of up to `batch_size` files.

    Args:
        images: the files to decode.
        image_size: height and width of the decoded images in pixels.
        batch_size: number of files per batch.
        on_unreadable: "raise" to raise an error for an unreadable image, or "skip" to skip it and print its name.

    Yields:
        Files and pixels, uint8 (B, image_size, image_size, 3).

    Raises:
        UserError: if an image cannot be read and `on_unreadable` is "raise".
    """
    with ThreadPoolExecutor(_MAX_THREADS) as pool:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            readable: list[ImageFile] = []
            pixels = np.empty((len(batch), image_size, image_size, 3), np.uint8)
            results = pool.map(partial(_try_read_image, image_size=image_size), [image.path for image in batch])
            for image, result in zip(batch, results, strict=True):
                if isinstance(result, str):
                    if on_unreadable == "raise":
                        raise UserError(f"{result}: repair or remove this file, or add --on-unreadable skip")
                    print(f"skipped {result}", file=sys.stderr)
                else:
                    pixels[len(readable)] = result
                    readable.append(image)
            yield readable, pixels[: len(readable)]


def read_image(path: Path, image_size: int | None = None) -> np.ndarray:
    """Read an image file as RGB, uint8 (H, W, 3); `rr.data.raw.decode_image` describes the conversion.

    Raises:
        UserError: if the file cannot be read or decoded.
    """
    result = _try_read_image(path, image_size)
    if isinstance(result, str):
        raise UserError(f"{result}: repair this file or give another image")
    return result


def has_image_suffix(path: Path) -> bool:
    """Return whether the name of `path` ends like the name of an image file."""
    return path.suffix.lower() in _image_suffixes()


def path_to_text(path: str | Path) -> str:
    """Return the path as text, with escapes for bytes that are not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def display_path(path: str | Path) -> str:
    """Return the path as one line of printable text, with escapes for all other characters."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in path_to_text(path))


def _try_read_image(path: Path, image_size: int | None) -> np.ndarray | str:
    """Return the pixels of an image file, or the reason why it cannot be read."""
    try:
        return raw.decode_image(path.read_bytes(), image_size)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        return f"{display_path(path)}: not a readable image ({reason})"


def _image_suffixes() -> set[str]:
    return {suffix for suffix, image_format in Image.registered_extensions().items() if image_format in Image.OPEN}


def _reraise(error: OSError) -> NoReturn:
    """Raise the error that `os.walk` would ignore."""
    raise error
