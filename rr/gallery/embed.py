"""`rr embed`: write the feature vectors of the images in a folder to a Parquet file."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rr.data.preprocessing import Preprocessing
from rr.data.skipped_files import UnreadablePolicy, format_skipped
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import list_images
from rr.gallery.index_file import ImageVectors, default_index_path, write_rows
from rr.gallery.index_update import (
    check_index_path,
    embed_batches,
    join_batches,
    keep_vectors,
    make_skipped_files,
    read_index_or_empty,
)
from rr.runtime.atomic import atomic_write, write_text
from rr.runtime.formatting import format_count
from rr.runtime.output_path import check_output_path


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

    If `map_path` is not None, a page with a map of the images is written to that path.

    `rr.gallery.index_file` describes the format of `output`. Vectors stored in `.rr/gallery` are not computed again,
    and all vectors are stored there if possible, even if the command is interrupted or an error about unreadable images
    is raised.

    Raises:
        UserError: if `output` or `map_path` cannot be written or has the wrong suffix, if the folder has no images, if
            an image cannot be read (unless `on_unreadable` is "skip"), or if the backbone cannot be loaded.
    """
    check_index_path("--output", output, weights, must_be_writable=True)
    if map_path:
        check_output_path("--map", map_path, [".html", ".htm"], weights)
    skipped = make_skipped_files(on_unreadable)
    images = list_images(folder, skipped)
    if map_path:
        from rr.gallery.map_page import check_image_count, render_map_page

        check_image_count(len(images), folder)
    extractor = load_feature_extractor(weights, preprocessing, device)
    index_path = default_index_path(extractor, folder)
    output_is_index = output.resolve() == index_path.resolve()
    cached = read_index_or_empty(index_path, extractor, folder)
    map_batches: list[ImageVectors] = []

    def compute_batches() -> Iterator[ImageVectors]:
        for batch in embed_batches(extractor, images, cached, skipped):
            if map_path:  # otherwise, memory use must not grow with the number of images
                map_batches.append(batch)
            yield batch

    with atomic_write(output, concurrent=True) as temporary:
        try:
            count = write_rows(temporary, extractor, folder, compute_batches(), skipped)
            has_new_vectors = count > len(cached.find_rows(images))
            if has_new_vectors and not output_is_index:
                with suppress(OSError), atomic_write(index_path, concurrent=True) as index:
                    shutil.copyfile(temporary, index)
        except BaseException:  # such as Ctrl-C
            if not output_is_index:  # store the vectors that were computed before the error
                computed = read_index_or_empty(temporary, extractor, folder)
                keep_vectors(index_path, extractor, folder, cached, computed, skipped)
            raise
        skipped.raise_if_unreadable()
        if map_path:
            check_image_count(count, folder)  # unreadable images are not in the map
    summary = f"{output}: {format_count(count, 'images')}, {extractor.num_features} features"
    if map_path:
        write_text(
            map_path, render_map_page(folder, *join_batches(map_batches, extractor.num_features)), concurrent=True
        )
        summary += f"; map written to {map_path}"
    return "\n".join([summary, *format_skipped(skipped.counts)])
