"""`rr embed`: every picture below a folder as a row of a Parquet file."""

from collections.abc import Iterator
from pathlib import Path

from rr.errors import UserError
from rr.gallery import index, network, pictures
from rr.gallery.index import Rows
from rr.gallery.network import Network
from rr.gallery.pictures import Picture, Unreadable
from rr.runtime.progress import Progress


def embed(
    folder: Path,
    weights: Path,
    output: Path,
    *,
    dataset: str | None,
    unreadable: Unreadable,
    device: str,
    params: Path,
) -> str:
    """Write the vectors of `folder`'s pictures to `output` (see `rr.gallery.index`). Returns what to say.

    Raises UserError as `listed`, `load` and `decoded` do, and for an `output` that would replace an input.
    """
    refuse_output("--output", output, weights)
    found = pictures.listed(folder)
    backbone = network.load(weights, dataset, params, device)
    count = index.write(output, backbone, folder, embedded(backbone, found, unreadable))
    skipped = f", {len(found) - count:,} skipped" if count < len(found) else ""
    return f"{output}: {count:,} pictures, {backbone.features} features{skipped}"


def embedded(backbone: Network, found: list[Picture], unreadable: Unreadable) -> Iterator[Rows]:
    """Yield pictures and vectors, a batch at a time, so that memory does not grow with the folder."""
    if not found:
        return
    done = 0
    with Progress("embed", len(found), "pictures") as progress:
        for kept, pixels in pictures.decoded(found, backbone.side, backbone.batch, unreadable):
            yield Rows(kept, backbone.embed(pixels))
            tried = min(backbone.batch, len(found) - done)
            done += tried
            progress.advance(tried)


def refuse_output(option: str, output: Path, weights: Path) -> None:
    """Raises UserError for an output that is a folder, the weights, or named like a picture."""
    if output.is_dir() or output.resolve() == weights.resolve() or pictures.is_picture_name(output):
        raise UserError(f"{option} {output}: that is a folder, the weights, or a picture's name; name another file")
