"""`rr retrieve`: find the images of a folder that are most similar to query images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from rr.data.index import Preprocessing
from rr.data.names import display_name, format_names
from rr.data.skipped_files import UnreadablePolicy, format_skipped
from rr.errors import UserError
from rr.evaluate.similarity import find_nearest
from rr.gallery import index
from rr.gallery.embed import check_output_path, make_skipped_files, update_index
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import list_images, read_images
from rr.gallery.search import Hit, QueryResult
from rr.runtime.atomic import write_text


def retrieve(
    queries: list[Path],
    folder: Path,
    weights: Path,
    *,
    top: int,
    page_path: Path | None,
    index_path: Path | None,
    dataset: Preprocessing | None,
    on_unreadable: UnreadablePolicy,
    device: str,
) -> str:
    """Find the images in `folder` that are most similar to each query image; return a table for each query as text.

    The vectors of the images in the folder and its subfolders are kept in an index, which is updated first.

    Args:
        queries: the query images.
        folder: the folder to search, called the gallery.
        weights: the backbone file.
        top: number of images to find for each query.
        page_path: HTML file to write, or None.
        index_path: path of the index. The default is `rr.gallery.index.default_index_path`.
        dataset: dataset whose image size, mean and std are used; by default, those in the metadata of the weights.
        on_unreadable: "raise" to raise an error for unreadable images of the gallery, or "skip" to skip them. In both
            cases, the index keeps the features of all other images.
        device: "auto", "cpu", "cuda" or "cuda:<number>".

    Raises:
        UserError: if a query image cannot be read, if `page_path` or `index_path` would overwrite another file, if the
            folder has no images, if an image cannot be read (unless `on_unreadable` is "skip"), or if the backbone
            cannot be loaded.
    """
    if missing := [display_name(query) for query in queries if not query.is_file()]:
        verb = "is not an existing file" if len(missing) == 1 else "are not existing files"
        raise UserError(f"{format_names(missing)} {verb}: give the path of an image")
    if page_path:
        check_output_path("--output", page_path, weights)
    if index_path:
        check_output_path("--index", index_path, weights)
        if index.is_foreign_file(index_path):
            raise UserError(f"--index {index_path}: this file exists and is not an index: give another path")
    skipped = make_skipped_files(on_unreadable)
    images = list_images(folder, skipped)
    extractor = load_feature_extractor(weights, dataset, device)
    index_path = index_path or index.default_index_path(extractor, folder)
    start = time.perf_counter()
    queries_QD = extractor.extract(np.stack(read_images(queries, extractor.decode)))
    seconds = time.perf_counter() - start
    gallery, num_embedded = update_index(index_path, extractor, folder, images, skipped)
    skipped.raise_if_unreadable()
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
    summary = (
        f"{seconds:.3f} s to search {len(gallery.images):,} images for {len(queries):,} "
        f"{'query' if len(queries) == 1 else 'queries'}; index {index_path}: {num_embedded:,} embedded"
        + (f"; page {page_path} written" if page_path else "")
    )
    summary = "\n".join([summary, *format_skipped(skipped.counts)])
    return "\n\n".join([*map(_format_result, results), summary])


def _format_result(result: QueryResult) -> str:
    """Format the hits of a query as a table."""
    lines = [display_name(result.query), "rank  similarity  path"]
    for rank, similarity, image in result.hits:
        lines.append(f"{rank:>4}  {similarity:>10.4f}  {display_name(image.name)}")
    return "\n".join(lines)
