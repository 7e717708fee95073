"""Pictures of stages that the page holds itself: views, and the nearest of a query."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rr.report.collect import Run

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


def views(every: Sequence[Run]) -> list[Sheet]:
    """One sheet per method and data set: the other seeds and backbones differ in the draw alone."""
    first: dict[tuple[str, str], Run] = {}
    for run in every:
        first.setdefault((run.cell.method, run.cell.dataset), run)
    return [_views(run) for run in first.values()]


def _views(run: Run) -> Sheet:
    count = run.settings.get("views")
    if count is None:
        caption = "Nothing is trained, so no view is drawn: these are pictures of the training split as they are."
    elif count == 1:
        caption = "Left the original, right the one view of it that the network sees in the first epoch."
    else:
        caption = f"First column: the originals. Beside each: its views as the network sees them, {count} at a time."
    title = f"{run.cell.method} on {run.cell.dataset}, seed {run.cell.seed}"
    return sheet(title, caption, run.views, run.cell.views)
