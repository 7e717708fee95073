"""List the image files in a folder, detect changed files and decode images."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rr.data.folder_listing import UNREADABLE_FILE, DamagedFile, describe_non_folder, image_kind, list_folder
from rr.data.image_decoding import UnreadableImageError, decode_image
from rr.data.printable_names import display_name, path_to_text
from rr.data.skipped_files import SkippedFiles, format_skipped
from rr.errors import UserError
from rr.runtime.formatting import format_names
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered

Decoder = Callable[[bytes], np.ndarray]


class ImageFile(NamedTuple):
    """An image file in a gallery.

    Attributes:
        path: path of the file.
        name: path relative to the gallery folder, as text (see `_unique_text`).
        size: size in bytes.
        change_time_ns: see `change_time`.
    """

    path: Path
    name: str
    size: int
    change_time_ns: int

    @property
    def index_key(self) -> tuple[str, int, int]:
        """Name, size and `change_time`. A changed file has a different key, so its old vector is not found."""
        return self.name, self.size, self.change_time_ns


def change_time(info: os.stat_result) -> int:
    """Return when the contents, the name or the permissions of a file last changed, in nanoseconds since 1970.

    The modification time is not enough. It does not change if two files with the same size and modification time swap
    names.
    """
    return info.st_ctime_ns


def list_images(folder: Path, skipped: SkippedFiles) -> list[ImageFile]:
    """Return all image files that `rr.data.folder_listing` finds in `folder` and its subfolders, sorted by name.

    All other files are reported to `skipped`.

    Raises:
        UserError: if `folder` is not a folder or contains no images.
    """
    if not folder.is_dir():
        what = describe_non_folder(folder)
        raise UserError(f"{display_name(folder)} does not exist or is not a folder{what}: use a folder of images")
    listing = list_folder(folder, image_kind())
    for file in listing.skipped:
        skipped.count(file)
    damaged = listing.damaged
    images = []
    for name in listing.files:
        path = folder / name
        try:
            info = os.stat(path)
        except OSError as error:  # a file that was just deleted
            damaged.append(DamagedFile(name, UNREADABLE_FILE, f"{UNREADABLE_FILE} ({error.strerror})"))
        else:
            images.append(ImageFile(path, _unique_text(name), info.st_size, change_time(info)))
    for damaged_file in damaged:
        skipped.add_damaged(damaged_file._replace(name=str(folder / damaged_file.name)))
    if not images:
        skipped.raise_if_unreadable()
        found = "; ".join(format_skipped(skipped.counts))
        raise UserError(
            f"{display_name(folder)} contains no images{f' ({found})' if found else ''}: add some (.jpg, .png, …) or "
            "use a different folder"
        )
    return sorted(images, key=lambda image: image.name)


def _unique_text(name: str) -> str:
    r"""Return a path as text, with escapes for bytes that are not valid UTF-8; no other path has the same text.

    If the path itself contains such an escape, as in the name `caf\xe9.png`, its backslash is written as `\x5c`.
    """
    return path_to_text(re.sub(r"\\(?=x[0-9a-f]{2})", r"\\x5c", name))


class OwnRows:
    """Find the rows of the gallery images that are the query file itself.

    Args:
        images: the images of the gallery.
    """

    def __init__(self, images: Sequence[ImageFile]) -> None:
        self._images = images
        self._rows = defaultdict(list)
        for row, image in enumerate(images):
            self._rows[image.size, image.change_time_ns].append(row)

    def find(self, query: Path) -> list[int]:
        """Return the rows whose file is `query`."""
        info = os.stat(query)
        candidates = self._rows.get((info.st_size, change_time(info)), [])
        return [row for row in candidates if os.path.samefile(query, self._images[row].path)]


def require_files(paths: Sequence[Path]) -> None:
    """Raise UserError if an image that is given by its path is a folder or does not exist."""
    if folders := [display_name(path) for path in paths if path.is_dir()]:
        raise UserError(
            f"{format_names(folders)} {'is a folder' if len(folders) == 1 else 'are folders'}: use the path of an image"
        )
    if missing := [display_name(path) for path in paths if not path.is_file()]:
        verb = "does not exist or is not a file" if len(missing) == 1 else "do not exist or are not files"
        raise UserError(f"{format_names(missing)} {verb}: use the path of an image")


def decode_images(paths: Iterable[Path], decode: Decoder, skipped: SkippedFiles) -> Iterator[np.ndarray | None]:
    """Yield the pixels of each image file, as returned by `decode`.

    For an image that cannot be read, None is yielded, and the image is reported to `skipped`.
    """
    for result in map_ordered(partial(_try_read_image, decode=decode), paths, DECODING_THREADS):
        if isinstance(result, DamagedFile):
            skipped.add_damaged(result)
            yield None
        else:
            yield result


def read_images(paths: Sequence[Path], decode: Decoder = decode_image) -> list[np.ndarray]:
    """Read image files with `decode`, and return each one as RGB, uint8 (H, W, 3).

    Raises:
        UserError: if files cannot be read or decoded. The message lists them.
    """
    unreadable = SkippedFiles("raise", "repair {them} or use different images")
    images = []
    for path in paths:
        result = _try_read_image(path, decode)
        if isinstance(result, DamagedFile):
            unreadable.add_damaged(result)
        else:
            images.append(result)
    unreadable.raise_if_unreadable()
    return images


def _try_read_image(path: Path, decode: Decoder) -> np.ndarray | DamagedFile:
    """Return the pixels of an image file, or the reason why it cannot be read."""
    try:
        return decode(path.read_bytes())
    except UnreadableImageError as error:
        return DamagedFile(str(path), error.reason, f"not a readable image ({error})")
    except OSError as error:
        return DamagedFile(str(path), UNREADABLE_FILE, f"{UNREADABLE_FILE} ({error.strerror or error})")
