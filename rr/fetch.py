"""Stage `fetch`: bring one data set's pictures, whatever their source, into one raw file."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from rr.data import raw, sources
from rr.errors import UserError
from rr.params import FolderSource, ParquetSource, SlimageNetSource, Source, TinyImageNetSource


def fetch(source: Source, images: Path, download: Path, local: Path | None = None) -> dict[str, Any]:
    """Write `images` (see `rr.data.raw`); return how many pictures, classes, and pictures skipped.

    `download` keeps archives between tries; `local` is a copy on this machine to use instead of `source`'s address.
    Raises UserError as the source does, and for a picture that cannot be read (unless `unreadable: skip`).
    """
    pictures = sources.pictures(source, download, local)
    skipped: list[str] = []
    if isinstance(source, FolderSource | ParquetSource):
        remedy = "mend or remove it, or set 'unreadable: skip' in the source"
        pictures = pictures._replace(rows=_readable(pictures.rows, source.unreadable, remedy, skipped))
    # The pictures of the others were encoded here.
    elif isinstance(source, TinyImageNetSource | SlimageNetSource):
        pictures = pictures._replace(rows=_readable(pictures.rows, "stop", "get the data set again", skipped))
    counts = raw.write(images, pictures)
    return {"images": counts, "classes": len(pictures.class_names), "skipped": len(skipped)}


def _readable(
    rows: Iterable[raw.Picture], unreadable: Literal["stop", "skip"], remedy: str, skipped: list[str]
) -> Iterator[raw.Picture]:
    """Pass on the pictures that decode: whether one can be read is found out once, when it enters the project."""
    for row in rows:
        try:
            raw.decode(row.data)
        except ValueError as error:
            problem = f"{row.path}: not a readable picture ({error})"
            if unreadable == "stop":
                raise UserError(f"{problem}; {remedy}") from error
            print(f"skipped {problem}", file=sys.stderr)
            skipped.append(row.path)
        else:
            yield row
