"""`rr retrieve`: find the images of a folder that are most similar to query images."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rr.errors import UserError
from rr.gallery import index
from rr.gallery.embed import check_output, embed_batches
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.images import ImageFile, OnUnreadable, display_path, list_images, read_image
from rr.gallery.index import CachedVectors, ImageVectors
from rr.gallery.search import Hit, QueryResult, find_nearest
from rr.runtime.atomic import write_text

if TYPE_CHECKING:  # a search does without this import, which takes a tenth of a second
    from rr.params import DatasetConfig


def retrieve(
    queries: list[Path],
    folder: Path,
    weights: Path,
    *,
    top: int,
    page: Path | None,
    index_path: Path | None,
    dataset: DatasetConfig | None,
    on_unreadable: OnUnreadable,
    device: str,
) -> str:
    """Find the images below `folder` that are most similar to each query image; return tables for the user.

    The vectors of the folder are kept in an index, which is updated first.

    Args:
        queries: the query images.
        folder: the gallery folder.
        weights: the backbone file.
        top: number of images to find for each query.
        page: HTML file to write, or None.
        index_path: path of the index. The default is `rr.gallery.index.default_path`.
        dataset: image size, mean and std to use. The default is those in the metadata of the weights.
        on_unreadable: "skip" skips unreadable images of the gallery.
        device: "auto", "cpu", "cuda" or "cuda:<number>".

    Raises:
        UserError: if a query image cannot be read, `page` or `index_path` would overwrite another file, the folder has
            no images, an image cannot be read (unless `on_unreadable` is "skip"), or the backbone cannot be loaded.
    """
    for query in queries:
        if not query.is_file():
            raise UserError(f"{display_path(query)}: no such file: give the path of an image")
    if page:
        check_output("--output", page, weights)
    if index_path:
        check_output("--index", index_path, weights)
        if index.is_other_file(index_path):
            raise UserError(f"--index {index_path}: the file exists and is not an index: give another file")
    images = list_images(folder)
    extractor = load_feature_extractor(weights, dataset, device)
    index_path = index_path or index.default_path(extractor, folder)
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
    if page:
        from rr.gallery.page import render_page

        write_text(page, render_page(results))
    num_skipped = len(images) - len(gallery.images)
    summary = (
        f"{seconds:.3f} s for {len(queries):,} {'query' if len(queries) == 1 else 'queries'} and "
        f"{len(gallery.images):,} images; {index_path}: {num_embedded:,} embedded"
        + (f", {num_skipped:,} skipped" if num_skipped else "")
        + (f"; {page}" if page else "")
    )
    return "\n\n".join([*map(_format_result, results), summary])


def _update_index(
    path: Path, extractor: FeatureExtractor, folder: Path, images: list[ImageFile], on_unreadable: OnUnreadable
) -> tuple[ImageVectors, int]:
    """Embed new and changed images and rewrite the index if it differs.

    Returns:
        The readable images with their vectors, and the number of images that were embedded.
    """
    try:
        cached = index.read_index(path, extractor, folder)
    except index.StaleIndex as error:
        print(f"{path} {error}: writing it again", file=sys.stderr)
        cached = CachedVectors({}, np.empty((0, extractor.num_features), np.float32))
    # A name with bytes that are not UTF-8 may have the same text as another name. Such names are not looked up.
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
    lines = [display_path(result.query), "rank  similarity  path"]
    for rank, similarity, image in result.hits:
        lines.append(f"{rank:>4}  {similarity:>10.4f}  {display_path(image.name)}")
    return "\n".join(lines)
