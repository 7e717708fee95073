"""`rr embed`: write the feature vectors of the images in a folder to a Parquet file."""

from __future__ import annotations

import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from rr.data.folder_listing import check_output_path
from rr.data.preprocessing import Preprocessing
from rr.data.skipped_files import SkippedFiles, UnreadablePolicy, format_skipped
from rr.errors import UserError
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.images import ImageFile, decode_images, list_images
from rr.gallery.vector_file import (
    CachedVectors,
    ImageVectors,
    StaleIndexError,
    default_index_path,
    is_foreign_file,
    read_index,
    write_index,
)
from rr.runtime.atomic import atomic_write, write_text
from rr.runtime.formatting import format_count
from rr.runtime.progress import Progress


def embed(
    folder: Path,
    weights: Path,
    output: Path,
    *,
    map_path: Path | None,
    preprocessing: Preprocessing | None,
    on_unreadable: UnreadablePolicy,
    device: str,
) -> str:
    """Write the feature vectors of all images in `folder` and its subfolders to `output`; return a summary.

    If `map_path` is not None, a page with a map of the images is written there, too.

    `rr.gallery.vector_file` describes the format of `output`. Vectors stored in `.rr/gallery` are not computed
    again. If an error about unreadable images is raised, the vectors of all other images are stored there.

    Raises:
        UserError: if `output` or `map_path` is a folder, the weights file or named like an image, if the folder has no
            images, if an image cannot be read (unless `on_unreadable` is "skip"), or if the backbone cannot be loaded.
    """
    check_output_path("--output", output, weights)
    if map_path:
        check_output_path("--map", map_path, weights)
    skipped = make_skipped_files(on_unreadable)
    images = list_images(folder, skipped)
    extractor = load_feature_extractor(weights, preprocessing, device)
    index_path = default_index_path(extractor, folder)
    try:
        cached = read_index(index_path, extractor, folder)
    except StaleIndexError:
        cached = CachedVectors.empty(extractor.num_features)
    batches: Iterable[ImageVectors] = embed_batches(extractor, images, cached, skipped)
    if map_path:
        batches = list(batches)
    with atomic_write(output, concurrent=True) as temporary:
        count = write_index(temporary, extractor, folder, batches, skipped)
        if skipped.will_raise:  # keep the vectors, so that the next attempt is quick
            with atomic_write(index_path, concurrent=True) as copy:
                shutil.copyfile(temporary, copy)
        skipped.raise_if_unreadable()
    summary = f"{output}: {format_count(count, 'images')}, {extractor.num_features} features"
    if map_path:
        from rr.gallery.map_page import render_map_page

        shown = [image for batch in batches for image in batch.images]
        write_text(map_path, render_map_page(folder, shown, np.concatenate([batch.vectors for batch in batches])))
        summary += f"; map {map_path} written"
    return "\n".join([summary, *format_skipped(skipped.counts)])


def make_skipped_files(on_unreadable: UnreadablePolicy) -> SkippedFiles:
    """Return an object that collects the unused and unreadable files of a gallery."""
    return SkippedFiles(on_unreadable, "repair or remove {them}, or add --on-unreadable skip")


def embed_batches(
    extractor: FeatureExtractor, images: list[ImageFile], cached: CachedVectors, skipped: SkippedFiles
) -> Iterator[ImageVectors]:
    """Yield images and their vectors in batches, so that memory use does not grow with the number of images.

    Vectors in `cached` are not computed again. Images that cannot be read are reported to `skipped`.

    Raises:
        UserError: if a feature is NaN or infinite.
    """
    rows = cached.find_rows(images)
    num_new = len(images) - len(rows)
    batches = [images[start : start + extractor.batch_size] for start in range(0, len(images), extractor.batch_size)]

    def decode_new(batch: list[ImageFile]) -> tuple[list[ImageFile], np.ndarray]:
        new = [image for image in batch if image.path not in rows]
        return decode_images(new, extractor.decode_and_resize, extractor.image_size, skipped)

    with (
        Progress("embed", num_new, "images") if num_new else nullcontext() as progress,
        ThreadPoolExecutor(1) as executor,
    ):
        pending = deque(executor.submit(decode_new, batch) for batch in batches[:1])
        for number, batch in enumerate(batches):
            # Decode the next batch while the backbone processes this one.
            pending.extend(executor.submit(decode_new, next_batch) for next_batch in batches[number + 1 : number + 2])
            readable, pixels = pending.popleft().result()
            vectors = dict(zip((image.path for image in readable), extractor.extract(pixels), strict=True))
            vectors |= {image.path: cached.vectors[rows[image.path]] for image in batch if image.path in rows}
            if found := [image for image in batch if image.path in vectors]:
                yield ImageVectors(found, np.stack([vectors[image.path] for image in found]))
            if progress:
                progress.advance(sum(image.path not in rows for image in batch))


def update_index(
    path: Path | None, extractor: FeatureExtractor, folder: Path, images: list[ImageFile], skipped: SkippedFiles
) -> tuple[ImageVectors, int]:
    """Embed new and changed images, and rewrite the index at `path` if its contents change.

    If `path` is None, all images are embedded, and no index is written. The index contains all readable images, even
    if an error about the others is raised afterwards.

    Returns:
        The readable images with their vectors, and the number of images that were embedded.
    """
    cached = CachedVectors.empty(extractor.num_features)
    try:
        cached = read_index(path, extractor, folder) if path else cached
    except StaleIndexError as error:
        print(f"the index {path} {error} and is rebuilt", file=sys.stderr)
    batches = list(embed_batches(extractor, images, cached, skipped))
    gallery = ImageVectors(
        [image for batch in batches for image in batch.images],
        np.concatenate([cached.vectors[:0], *(batch.vectors for batch in batches)]),
    )
    num_embedded = len(gallery.images) - len(cached.find_rows(gallery.images))
    if path and (num_embedded or not batches or len(gallery.images) != len(cached.rows)):
        write_index(path, extractor, folder, [gallery], skipped)
    return gallery, num_embedded


def check_index_path(option: str, index: Path, weights: Path) -> None:
    """Raise UserError if `index` is a path where no index may be written; `option` is for the message."""
    check_output_path(option, index, weights)
    if is_foreign_file(index):
        raise UserError(f"{option} {index}: this file exists and is not an index: use a different path")
