"""Compute the features of new and changed images in a folder, and update the folder's index."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np

from rr.data.skipped_files import SkippedFiles, UnreadablePolicy
from rr.errors import UserError
from rr.gallery.feature_extractor import FeatureExtractor
from rr.gallery.images import ImageFile, decode_images
from rr.gallery.index_file import (
    CachedVectors,
    ImageVectors,
    StaleIndexError,
    is_foreign_file,
    read_index,
    require_readable_images,
    write_index,
)
from rr.runtime.output_path import check_output_path, is_writable
from rr.runtime.progress import Progress


def make_skipped_files(on_unreadable: UnreadablePolicy, option: str = "add --on-unreadable skip") -> SkippedFiles:
    """Return an object that collects a gallery's unused and unreadable files. `option` is used in error messages."""
    return SkippedFiles(on_unreadable, f"repair or remove {{them}}, or {option}")


def print_warning(message: str) -> None:
    """Print a warning for the users of a command."""
    print(f"warning: {message}", file=sys.stderr)


def embed_batches(
    extractor: FeatureExtractor,
    images: list[ImageFile],
    cached: CachedVectors,
    skipped: SkippedFiles,
    warn: Callable[[str], None] = print_warning,
) -> Iterator[ImageVectors]:
    """Yield images and their vectors in batches, so that memory use does not grow with the number of images.

    Vectors in `cached` are not computed again. Images that cannot be read are reported to `skipped`. If all vectors are
    equal, `warn` is called with a message.

    Raises:
        UserError: if a feature is NaN or infinite.
    """
    rows = cached.find_rows(images)
    new = [image.path for image in images if image.path not in rows]
    decoded = decode_images(new, extractor.decode_and_resize, skipped)
    num_images, first_D, are_equal = 0, None, True
    with Progress("embed", len(new), "images") if new else nullcontext() as progress:
        for start in range(0, len(images), extractor.batch_size):
            batch = images[start : start + extractor.batch_size]
            vectors = {image.path: cached.vectors[rows[image.path]] for image in batch if image.path in rows}
            pixels: dict[Path, np.ndarray] = {}  # of the new images that can be read
            for image in batch:
                if image.path not in rows:
                    image_pixels = next(decoded)  # `decoded` yields the new images of all batches in this order
                    if image_pixels is not None:
                        pixels[image.path] = image_pixels
                    if progress:
                        progress.advance(1)
            if pixels:
                features = extractor.extract(np.stack(list(pixels.values())))
                vectors.update(zip(pixels, features, strict=True))
            if readable := [image for image in batch if image.path in vectors]:
                vectors_BD = np.stack([vectors[image.path] for image in readable])
                first_D = vectors_BD[0] if first_D is None else first_D
                num_images, are_equal = num_images + len(readable), are_equal and bool((vectors_BD == first_D).all())
                yield ImageVectors(readable, vectors_BD)
    if are_equal and first_D is not None and (num_images > 1 or not first_D.any()):
        warn(
            f"all {num_images:,} images have the same features: if the images differ, the weights are "
            f"unusable{f' ({extractor.weights})' if extractor.weights else ''}; use other weights"
        )


def update_index(
    path: Path | None,
    extractor: FeatureExtractor,
    folder: Path,
    images: list[ImageFile],
    skipped: SkippedFiles,
    warn: Callable[[str], None] = print_warning,
) -> tuple[ImageVectors, int]:
    """Embed new and changed images, and rewrite the index at `path` if its contents change.

    If `path` is None, all images are embedded, and no index is written. The index contains all readable images, even
    if an error about the others is raised afterward.

    Returns:
        The readable images with their vectors, and the number of images that were embedded.

    Raises:
        UserError: if no image can be read, or if a feature is NaN or infinite.
    """
    cached = CachedVectors.empty(extractor.num_features)
    try:
        cached = read_index(path, extractor, folder) if path else cached
    except StaleIndexError as error:
        print(f"the index {path} {error} and will be rebuilt", file=sys.stderr)
    if path and not is_writable(path) and len(cached.find_rows(images)) < len(images):
        print(
            f"the folder that contains the index {path} is read-only, so new features are not stored", file=sys.stderr
        )
    batches: list[ImageVectors] = []
    try:
        for batch in embed_batches(extractor, images, cached, skipped, warn):
            batches.append(batch)
    except BaseException:  # a signal, or an unusable feature
        if path:
            computed = CachedVectors.from_images(*join_batches(batches, extractor.num_features))
            keep_vectors(path, extractor, folder, cached, computed, skipped)
        raise
    gallery = join_batches(batches, extractor.num_features)
    require_readable_images(len(gallery.images), folder, skipped)
    num_embedded = len(gallery.images) - len(cached.find_rows(gallery.images))
    if path and (num_embedded or len(gallery.images) != len(cached.rows)) and is_writable(path):
        write_index(path, extractor, folder, [gallery], skipped)
    return gallery, num_embedded


def join_batches(batches: list[ImageVectors], num_features: int) -> ImageVectors:
    """Return the images and the vectors of all batches, float32 (N, num_features)."""
    images = [image for batch in batches for image in batch.images]
    return ImageVectors(
        images, np.concatenate([np.empty((0, num_features), np.float32), *(batch.vectors for batch in batches)])
    )


def read_index_or_empty(path: Path, extractor: FeatureExtractor, folder: Path) -> CachedVectors:
    """Return the contents of the index at `path`, or no vectors if it is missing, damaged or outdated."""
    try:
        return read_index(path, extractor, folder)
    except StaleIndexError:
        return CachedVectors.empty(extractor.num_features)


def keep_vectors(
    path: Path,
    extractor: FeatureExtractor,
    folder: Path,
    cached: CachedVectors,
    computed: CachedVectors,
    skipped: SkippedFiles,
) -> None:
    """Write the vectors of unfinished work to the index at `path`, if possible, so that the next attempt is quick."""
    new = {key: row for key, row in computed.rows.items() if key not in cached.rows}
    if new:
        images = [ImageFile(folder / key[0], *key) for key in (*cached.rows, *new)]
        vectors = np.concatenate([cached.vectors[list(cached.rows.values())], computed.vectors[list(new.values())]])
        with suppress(OSError):  # so that the error that ended the work is reported
            write_index(path, extractor, folder, [ImageVectors(images, vectors)], skipped)


def check_index_path(option: str, index: Path, weights: Path, *, must_be_writable: bool) -> None:
    """Raise UserError if `index` is a path where no index may be written (see `check_output_path`)."""
    check_output_path(option, index, [".parquet"], weights, must_be_writable=must_be_writable)
    if is_foreign_file(index):
        raise UserError(f"{option} {index}: this file exists but was not written by rr: use a different path")
