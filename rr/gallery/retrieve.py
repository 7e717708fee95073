"""`rr retrieve`: find the images in a folder that are most similar to query images."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import display_name, path_to_text
from rr.data.skipped_files import UnreadablePolicy, format_skipped
from rr.errors import UserError
from rr.evaluate.similarity import cosine_similarities, find_nearest
from rr.gallery import index_file
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import OwnRows, list_images, read_images, require_files
from rr.gallery.index_file import ImageVectors
from rr.gallery.index_update import check_index_path, make_skipped_files, update_index
from rr.gallery.pair_scorer import PairScorer, load_pair_scorer
from rr.gallery.random_pairs import MIN_RANDOM_PAIRS, percentiles, sample_pairs
from rr.gallery.search_results import Hit, QueryResult
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_count
from rr.runtime.output_path import check_output_path
from rr.runtime.weights_lookup import find_weights


def retrieve(
    queries: list[Path],
    folder: Path,
    weights: Path,
    *,
    top: int,
    num_reranked: int,
    page_path: Path | None,
    index_path: Path | None,
    preprocessing: Preprocessing | None,
    on_unreadable: UnreadablePolicy,
    device: str,
    as_json: bool = False,
) -> str:
    """Find the images in `folder` that are most similar to each query image; return a table for each query as text.

    The vectors of the images in the folder and its subfolders are stored in an index, which is updated first. By
    default, `rr.gallery.index_file.default_index_path` determines its path. A query that is itself an image in the
    folder is left out of its own results. The relation head reorders the `num_reranked` most similar images, unless
    this number is 0. If `page_path` is not None, an HTML page is written.

    The image size, mean and std come from `preprocessing` or, by default, from the metadata of the weights. If
    `on_unreadable` is "raise", an error about unreadable images is raised after the features of all other images have
    been stored. With `as_json`, the text is JSON.

    Raises:
        UserError: if `num_reranked` is less than `top` but not 0, if a query image cannot be read, if `page_path` or
            `index_path` would overwrite another file, if the folder has no images, if an image cannot be read (unless
            `on_unreadable` is "skip"), if the backbone cannot be loaded, or if images are to be reordered and the
            backbone has no relation head.
    """
    if 0 < num_reranked < top:
        raise UserError(f"--rerank {num_reranked}: must be at least the number of results (--top {top})")
    _check_paths(queries, weights, page_path, index_path)
    skipped = make_skipped_files(on_unreadable)
    images = list_images(folder, skipped)
    extractor = load_feature_extractor(weights, preprocessing, device)
    scorer = load_pair_scorer(find_weights(weights), extractor.sha256) if num_reranked else None
    index_path = index_path or index_file.default_index_path(extractor, folder)
    start = time.perf_counter()
    queries_QD = extractor.extract(np.stack(read_images(queries, extractor.decode_and_resize)))
    seconds = time.perf_counter() - start
    gallery, num_embedded = update_index(index_path, extractor, folder, images, skipped)
    skipped.raise_if_unreadable()
    start = time.perf_counter()
    results = _search(queries, queries_QD, gallery, top, num_reranked, scorer)
    seconds += time.perf_counter() - start
    summary = (
        f"{seconds:.3f} s to search {format_count(len(gallery.images), 'images')} for "
        f"{format_count(len(queries), 'queries', 'query')}; computed the features of "
        f"{format_count(num_embedded, 'images')}; index {index_path}"
    )
    if page_path:
        from rr.gallery.search_page import render_page

        score = "probability that both are views of the same image" if scorer else "cosine similarity of their features"
        write_text(page_path, render_page(results, f"the {score}"), concurrent=True)
        summary += f"; page written to {page_path}"
    if as_json:
        facts = {
            "queries": [
                {"query": path_to_text(result.query), "hits": list(map(_hit_facts, result.hits))} for result in results
            ],
            "calibration": scorer.description if scorer else None,
            "images": len(gallery.images),
            "embedded": num_embedded,
            "skipped": skipped.counts,
            "index": path_to_text(index_path),
            "page": path_to_text(page_path) if page_path else None,
        }
        return json.dumps(facts, indent=1)
    ranked_by = "probability" if scorer else "similarity"
    lines = [
        summary,
        f"percentile: percentage of random pairs of gallery images with a lower {ranked_by} (– if there are fewer than "
        f"{MIN_RANDOM_PAIRS} pairs)",
    ]
    lines += [f"probability: {scorer.description}"] if scorer else []
    lines += format_skipped(skipped.counts)
    return "\n\n".join([*map(_format_result, results), "\n".join(lines)])


def _check_paths(queries: Sequence[Path], weights: Path, page_path: Path | None, index_path: Path | None) -> None:
    """Raise UserError if a query is not a file, or if the page or the index would overwrite another file."""
    require_files(queries)
    if page_path:
        check_output_path("--output", page_path, [".html", ".htm"], weights)
    if index_path:
        check_index_path("--index", index_path, weights, must_be_writable=False)


def _search(
    queries: Sequence[Path],
    queries_QD: np.ndarray,
    gallery: ImageVectors,
    top: int,
    num_reranked: int,
    scorer: PairScorer | None,
) -> list[QueryResult]:
    """Return the `top` gallery images that are most similar to each query, without the query itself."""
    own_rows = list(map(OwnRows(gallery.images).find, queries))
    first, second = (gallery.vectors[rows] for rows in sample_pairs(len(gallery.images)))
    reference = scorer.head.logits(first, second) if scorer else cosine_similarities(first, second)
    num_candidates = max(top, num_reranked)
    # Request more rows, so that enough remain when those of the query itself are left out.
    nearest = find_nearest(queries_QD, gallery.vectors, num_candidates + max(map(len, own_rows)))
    results = []
    for query, query_D, own, rows, similarities in zip(queries, queries_QD, own_rows, *nearest, strict=True):
        is_other = ~np.isin(rows, own)
        rows, similarities = rows[is_other][:num_candidates], similarities[is_other][:num_candidates]
        scores, probabilities = similarities, [None] * len(rows)
        if scorer and len(rows):
            scores = scorer.head.logits(query_D[None], gallery.vectors[rows])
            order = np.argsort(-scores, kind="stable")
            rows, similarities, scores = rows[order], similarities[order], scores[order]
            probabilities = scorer.probabilities(scores).tolist()
        values = zip(rows, similarities.tolist(), probabilities, percentiles(scores, reference).tolist(), strict=True)
        hits = [
            Hit(rank, similarity, gallery.images[row], probability, percentile)
            for rank, (row, similarity, probability, percentile) in enumerate(values, 1)
        ]
        results.append(QueryResult(query, hits[:top]))
    return results


def _hit_facts(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON values. `path` is relative to the searched folder."""
    return {
        "rank": hit.rank,
        "path": hit.image.name,
        "similarity": hit.similarity,
        "probability": hit.probability,
        "percentile": None if math.isnan(hit.percentile) else hit.percentile,
    }


def _format_result(result: QueryResult) -> str:
    """Format the hits of a query as a table."""
    if not result.hits:
        return f"{display_name(result.query)}\nthe folder contains no other images"
    has_probabilities = any(hit.probability is not None for hit in result.hits)
    lines = [display_name(result.query), f"rank  similarity  {'probability  ' * has_probabilities}percentile  path"]
    for hit in result.hits:
        probability = "" if hit.probability is None else f"{hit.probability:>11.4f}  "
        name = display_name(hit.image.name)
        lines.append(f"{hit.rank:>4}  {hit.similarity:>10.4f}  {probability}{hit.percentile_text:>10}  {name}")
    return "\n".join(lines)
