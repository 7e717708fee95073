"""`rr retrieve`: the pictures of a gallery that are nearest to each of some pictures."""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from rr.errors import UserError
from rr.gallery import index, network, pictures, search
from rr.gallery.embed import embedded, refuse_output
from rr.gallery.index import Rows
from rr.gallery.network import Network
from rr.gallery.pictures import Picture, Unreadable
from rr.gallery.search import Answer, Hit
from rr.runtime.atomic import write_text


def retrieve(
    images: list[Path],
    folder: Path,
    weights: Path,
    *,
    top: int,
    page: Path | None,
    place: Path | None,
    dataset: str | None,
    unreadable: Unreadable,
    device: str,
    params: Path,
) -> str:
    """Find the `top` pictures below `folder` nearest to each of `images`; write the `page` if asked. Returns tables.

    The vectors of `folder` are kept in `place` (or `index.default_place`) and brought up to date first.
    Raises UserError for a picture that cannot be read, and as `listed`, `load` and `decoded` do.
    """
    for image in images:
        if not image.is_file():
            raise UserError(f"{pictures.printable(pictures.text(image))}: no such file; give the path of a picture")
    if page:
        refuse_output("--output", page, weights)
    if place:
        refuse_output("--index", place, weights)
        if index.is_foreign(place):
            raise UserError(f"--index {place}: there is something else in that file, which is kept; name another one")
    found = pictures.listed(folder)
    backbone = network.load(weights, dataset, params, device)
    place = place or index.default_place(backbone, folder)
    clock = time.perf_counter()
    queries_QD = backbone.embed(np.stack([pictures.read(image, backbone.side) for image in images]))
    seconds = time.perf_counter() - clock
    gallery, anew = _up_to_date(place, backbone, folder, found, unreadable)
    clock = time.perf_counter()
    positions, similarities = search.nearest(queries_QD, gallery.vectors, top)
    answers = [
        Answer(image, [Hit(k + 1, float(s), gallery.pictures[i]) for k, (i, s) in enumerate(zip(*hits, strict=True))])
        for image, *hits in zip(images, positions, similarities, strict=True)
    ]
    seconds += time.perf_counter() - clock
    if page:
        from rr.gallery.page import render

        write_text(page, render(answers))
    skipped = len(found) - len(gallery.pictures)
    closing = (
        f"{seconds:.3f} s for {len(images):,} against {len(gallery.pictures):,} pictures; {place}: {anew:,} embedded"
        + (f", {skipped:,} skipped" if skipped else "")
        + (f"; {page}" if page else "")
    )
    return "\n\n".join([*map(_table, answers), closing])


def _up_to_date(
    place: Path, backbone: Network, folder: Path, found: list[Picture], unreadable: Unreadable
) -> tuple[Rows, int]:
    """Those of `found` that can be read with their vectors, as `place` then holds them; and how many were embedded."""
    try:
        known = index.read(place, backbone, folder)
    except index.Useless as error:
        print(f"{place} {error}: making it again", file=sys.stderr)
        known = index.Known({}, np.empty((0, backbone.features), np.float32))
    # Two names may be shown alike, where one is not text and another spells the escapes: those are not looked up.
    often = Counter(picture[1:] for picture in found)
    rows = {p.file: known.rows[p[1:]] for p in found if p[1:] in known.rows and often[p[1:]] == 1}
    parts = list(embedded(backbone, [picture for picture in found if picture.file not in rows], unreadable))
    anew = [picture.file for part in parts for picture in part.pictures]
    rows |= {file: len(known.vectors) + k for k, file in enumerate(anew)}
    kept = [picture for picture in found if picture.file in rows]
    every = np.concatenate([known.vectors, *(part.vectors for part in parts)])
    gallery = Rows(kept, every[[rows[picture.file] for picture in kept]])
    if anew or not kept or len(kept) != len(known.rows):
        index.write(place, backbone, folder, [gallery])
    return gallery, len(anew)


def _table(answer: Answer) -> str:
    lines = [pictures.printable(pictures.text(answer.query)), "rank  similarity  path"]
    for rank, similarity, picture in answer.hits:
        lines.append(f"{rank:>4}  {similarity:>10.4f}  {pictures.printable(picture.name)}")
    return "\n".join(lines)
