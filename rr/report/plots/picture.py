"""PNG images of stages, embedded in the page."""

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

_WIDEST = 960  # pixels of the page that a sheet may fill


@dataclass(frozen=True)
class Sheet:
    """A picture, shown `width` pixels wide: a whole multiple of its own, so that pixels stay square."""

    title: str
    caption: str
    uri: str
    width: int
    file: Path


def sheet(title: str, caption: str, png: bytes, file: Path, largest: int = 3) -> Sheet:
    """The PNG of `file` as part of the page, enlarged up to `largest` times."""
    width = max(struct.unpack(">I", png[16:20])[0], 1)
    shown = width * min(largest, max(1, _WIDEST // width))
    return Sheet(title, caption, "data:image/png;base64," + base64.b64encode(png).decode("ascii"), shown, file)
