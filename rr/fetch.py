"""Stage `fetch`: bring one data set's pictures, whatever their source, into one raw file."""

from pathlib import Path
from typing import Any

from rr.data import raw, sources
from rr.params import Source


def fetch(source: Source, images: Path, download: Path, local: Path | None = None) -> dict[str, Any]:
    """Write `images` (see `rr.data.raw`) and return the number of pictures of each split and of classes.

    `download` keeps archives between tries; `local` is a copy on this machine to use instead of `source`'s address.
    Raises UserError as the source does; nothing is left half written.
    """
    pictures = sources.pictures(source, download, local)
    counts = raw.write(images, pictures)
    return {"images": counts, "classes": len(pictures.class_names)}
