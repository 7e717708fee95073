"""The page and its Markdown twin: everything computed before, put into `page.html` and `page.md`."""

import base64
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rr import paths
from rr.report import figures, runs, tables
from rr.report.collect import Collected, Run
from rr.report.finding import finding, sentence

_HERE = Path(__file__).parent
_WIDEST = 960  # pixels of the page that a sheet of views may fill


@dataclass(frozen=True)
class Curves:
    """The panels of one method, and the histories they come from, by seed."""

    title: str
    panels: list[figures.Panel]
    files: dict[int, Path]


@dataclass(frozen=True)
class Views:
    """A sheet of views, shown `width` pixels wide: a whole multiple of its own, so that pixels stay square."""

    title: str
    caption: str
    uri: str
    width: int
    file: Path


def render(grid: Collected) -> tuple[str, str]:
    """Return the page (HTML) and the same in GitHub's Markdown."""
    found = tables.tables(grid)
    known = runs.machines(grid)
    values = {
        "tables": found,
        "finding": finding(found),
        "sentence": sentence,
        "axes": _axes(grid),
        "protocols": {score.cell.protocol: score.settings["kind"] for score in grid.scores},
        "curves": _curves(grid.runs),
        "views": _views(grid.runs),
        "machines": known,
        "stages": {
            "Pretraining": runs.lines(grid.runs, known),
            "Evaluation": runs.lines(grid.scores, known),
        },
        "settings": runs.settings(grid),
        "results": Path("results.parquet"),
    }
    return (
        _environment(html=True).get_template("page.html").render(values, dots=figures.accuracies, css=_css()),
        _environment(html=False).get_template("page.md").render(values),
    )


def link(path: Path) -> str:
    """The address of a file, seen from the page."""
    return Path(os.path.relpath(path, paths.REPORT)).as_posix()


def markdown(text: Any) -> str:
    """Text for a cell of a GitHub table, where it must neither end the cell nor become markup."""
    line = " ".join(str(text).split())
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(mark, entity)
    return "".join(f"\\{letter}" if letter in "\\|`*~[]" else letter for letter in line)


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": tables.percent, "duration": runs.duration, "link": link, "md": markdown, "svg": Markup,
    }  # fmt: skip
    return environment


def _css() -> Markup:
    return Markup((_HERE / "page.css").read_text(encoding="utf-8"))


def _axes(grid: Collected) -> dict[str, list[Any]]:
    """The grid's values, axis by axis."""
    cells = [run.cell for run in grid.runs]
    return {
        "dataset": _unique(cell.dataset for cell in cells),
        "backbone": _unique(cell.backbone for cell in cells),
        "method": _unique(cell.method for cell in cells),
        "seed": _unique(cell.seed for cell in cells),
        "target": _unique(score.cell.target for score in grid.scores),
        "protocol": _unique(score.cell.protocol for score in grid.scores),
    }


def _curves(every: Sequence[Run]) -> list[Curves]:
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in every:
        groups.setdefault((run.cell.method, run.cell.dataset, run.cell.backbone), []).append(run)
    found = []
    for place, group in groups.items():
        panels = figures.curves(group, "-".join(place))
        if panels:
            title = "{} on {}, {}".format(*place)
            found.append(Curves(title, panels, {run.cell.seed: run.cell.history for run in group}))
    return found


def _views(every: Sequence[Run]) -> list[Views]:
    """One sheet per method and data set: the other seeds and backbones differ in the draw alone."""
    first: dict[tuple[str, str], Run] = {}
    for run in every:
        first.setdefault((run.cell.method, run.cell.dataset), run)
    return [_sheet(run) for run in first.values()]


def _sheet(run: Run) -> Views:
    width, _ = struct.unpack(">II", run.views[16:24])
    shown = max(width, 1) * min(3, max(1, _WIDEST // max(width, 1)))
    count = run.settings.get("views")
    if run.settings["kind"] == "random":
        caption = "Nothing is trained, so no view is drawn: these are pictures of the training split as they are."
    elif count == 1:
        caption = "Left the original, right the one view of it that the network sees in the first epoch."
    else:
        caption = f"First column: the originals. Beside each: its views as the network sees them, {count} at a time."
    uri = "data:image/png;base64," + base64.b64encode(run.views).decode("ascii")
    title = f"{run.cell.method} on {run.cell.dataset}, seed {run.cell.seed}"
    return Views(title, caption, uri, shown, run.cell.views)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
