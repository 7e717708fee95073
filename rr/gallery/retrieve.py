"""`rr retrieve`: find the images of a folder that are most similar to query images."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rr.data.raw import UnreadablePolicy
from rr.errors import UserError
from rr.gallery import index
from rr.gallery.embed import check_output_path, embed_batches
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.images import ImageFile, display_path, list_images, read_image
from rr.gallery.index import CachedVectors, ImageVectors
from rr.gallery.search import Hit, QueryResult, find_nearest
from rr.runtime.atomic import write_text

if TYPE_CHECKING:  # at run time, this import would add a tenth of a second to a search
    from rr.params import DatasetConfig


def retrieve(
    queries: list[Path],
    folder: Path,
    weights: Path,
    *,
    top: int,
    page_path: Path | None,
    index_path: Path | None,
    dataset: DatasetConfig | None,
    on_unreadable: UnreadablePolicy,
    device: str,
) -> str:
    """Find the images in `folder` that are most similar to each query image; return a table for each query as text.

    The vectors of the folder, including its subfolders, are kept in an index, which is updated first.

    Args:
        queries: the query images.
        folder: the folder to search, called the gallery.
        weights: the backbone file.
        top: number of images to find for each query.
        page_path: HTML file to write, or None.
        index_path: path of the index. The default is `rr.gallery.index.default_path`.
        dataset: dataset whose image size, mean and std are used. The default is those in the metadata of the weights.
        on_unreadable: "raise" to raise an error for an unreadable image of the gallery, or "skip" to skip it.
        device: "auto", "cpu", "cuda" or "cuda:<number>".

    Raises:
        UserError: if a query image cannot be read, if `page_path` or `index_path` would overwrite another file, if the
            folder has no images, if an image cannot be read (unless `on_unreadable` is "skip"), or if the backbone
            cannot be loaded.
    """
    for query in queries:
        if not query.is_file():
            raise UserError(f"{display_path(query)} is not an existing file: give the path of an image")
    if page_path:
        check_output_path("--output", page_path, weights)
    if index_path:
        check_output_path("--index", index_path, weights)
        if index.is_foreign_file(index_path):
            raise UserError(f"--index {index_path}: this file exists and is not an index: give another path")
    images = list_images(folder)
    extractor = load_feature_extractor(weights, dataset, device)
    index_path = index_path or index.default_index_path(extractor, folder)
    start = time.perf_counter()
    queries_QD = extractor.extract(np.stack([read_image(query, extractor.image_size) for query in queries]))
    seconds = time.perf_counter() - start
    gallery, num_embedded = _update_index(index_path, extractor, folder, images, on_unreadable)
    start = time.perf_counter()
    rows_QT, similarities_QT = find_nearest(queries_QD, gallery.vectors, top)
    results = [
        QueryResult(query, [Hit(k + 1, float(similarities[k]), gallery.images[row]) for k, row in enumerate(rows)])
        for query, rows, similarities in zip(queries, rows_QT, similarities_QT, strict=True)
    ]
    seconds += time.perf_counter() - start
    if page_path:
        from rr.gallery.page import render_page

        write_text(page_path, render_page(results))
    num_skipped = len(images) - len(gallery.images)
    summary = (
        f"{seconds:.3f} s to search {len(gallery.images):,} images for {len(queries):,} "
        f"{'query' if len(queries) == 1 else 'queries'}; index {index_path}: {num_embedded:,} embedded"
        + (f", {num_skipped:,} skipped" if num_skipped else "")
        + (f"; page {page_path} written" if page_path else "")
    )
    return "\n\n".join([*map(_format_result, results), summary])


def _update_index(
    path: Path, extractor: FeatureExtractor, folder: Path, images: list[ImageFile], on_unreadable: UnreadablePolicy
) -> tuple[ImageVectors, int]:
    """Embed new and changed images, and rewrite the index if its contents change.

    Returns:
        The readable images with their vectors, and the number of images that were embedded.
    """
    try:
        cached = index.read_index(path, extractor, folder)
    except index.StaleIndex as error:
        print(f"the index {path} {error} and is rebuilt", file=sys.stderr)
        cached = CachedVectors({}, np.empty((0, extractor.num_features), np.float32))
    # A name that is not valid UTF-8 may have the same text as another name. Such names are not looked up.
    key_counts = Counter(image.index_key for image in images)
    rows = {
        image.path: cached.rows[image.index_key]
        for image in images
        if image.index_key in cached.rows and key_counts[image.index_key] == 1
    }
    batches = list(embed_batches(extractor, [image for image in images if image.path not in rows], on_unreadable))
    embedded_paths = [image.path for batch in batches for image in batch.images]
    rows |= {image_path: len(cached.vectors) + k for k, image_path in enumerate(embedded_paths)}
    readable = [image for image in images if image.path in rows]
    vectors = np.concatenate([cached.vectors, *(batch.vectors for batch in batches)])
    gallery = ImageVectors(readable, vectors[[rows[image.path] for image in readable]])
    if embedded_paths or not readable or len(readable) != len(cached.rows):
        index.write_index(path, extractor, folder, [gallery])
    return gallery, len(embedded_paths)


def _format_result(result: QueryResult) -> str:
    """Format the hits of a query as a table."""
    lines = [display_path(result.query), "rank  similarity  path"]
    for rank, similarity, image in result.hits:
        lines.append(f"{rank:>4}  {similarity:>10.4f}  {display_path(image.name)}")
    return "\n".join(lines)
