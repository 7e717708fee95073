"""The page and its Markdown twin: everything computed before, put into `page.html` and `page.md`."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rr import paths
from rr.report import tables
from rr.report.inputs.collect import CLASSIFICATION, Collected, Run, Score
from rr.report.latex import latex
from rr.report.paper.comparison import beside
from rr.report.paper.tables import Pair, signed, written
from rr.report.sections import curves, runs, versions, views
from rr.report.sections.accuracies import accuracy_panels, accuracy_tables
from rr.report.sections.classes import audits
from rr.report.sections.dynamics import dynamics
from rr.report.sections.efficiency import efficiencies
from rr.report.sections.embedding import spaces
from rr.report.sections.retrieval import retrievals
from rr.report.sections.summary import finding, sentence

_TEMPLATES = Path(__file__).parent / "templates"
_TITLES = {
    "beside": "Beside the paper",
    "accuracies": "Accuracies",
    "classes": "Classes",
    "retrieval": "Retrieval",
    "embedding": "Embedding",
    "curves": "Curves",
    "dynamics": "Dynamics",
    "efficiency": "Efficiency",
    "views": "Views",
    "runs": "What ran",
    "settings": "Settings",
}


@dataclass(frozen=True)
class Curves:
    """The panels of one method, and the histories they come from, by seed."""

    title: str
    panels: list[curves.Panel]
    files: dict[int, Path]


def render(grid: Collected) -> tuple[str, str, str]:
    """Return the page (HTML), the same in GitHub's Markdown, and its tables in LaTeX.

    A section without content appears in none.
    """
    found = accuracy_tables(grid)
    known = runs.machines(grid)
    groups = _groups(grid.runs)
    stages: dict[str, Sequence[Run | Score]] = {"Pretraining": grid.runs, "Evaluation": grid.scores}
    paper = beside(grid)
    sections = {
        "beside": paper,
        "accuracies": found,
        "classes": audits(found),
        "retrieval": retrievals(grid),
        "embedding": spaces(grid),
        "curves": _curves(groups),
        "dynamics": dynamics(groups),
        "efficiency": efficiencies(grid.runs),
        "views": views.views(grid.runs),
        "runs": {stage: runs.lines(made, known, versions.letters(made)) for stage, made in stages.items()},
        "settings": runs.settings(grid),
    }
    values = {
        "sections": sections,
        "contents": {name: _TITLES[name] for name, content in sections.items() if content},
        "finding": finding(found),
        "over": tables.over(cell.value.count for one in found for row in one.rows for cell in row.cells.values()),
        "sentence": sentence,
        "axes": _axes(grid),
        "protocols": {s.cell.protocol: s.settings for s in grid.of_kind(*CLASSIFICATION)},
        "machines": known,
        "metered": any(record.energy_joules for record in grid.records),
        "mixed": [text for stage, made in stages.items() if (text := versions.mixed(stage, made))],
        "commits": versions.commits(grid.records),
        "results": Path("results.parquet"),
    }
    return (
        _environment(html=True)
        .get_template("page.html")
        .render(values, dots=accuracy_panels, css=_css(), script=_script()),
        _environment(html=False).get_template("page.md").render(values, beside_cell=beside_cell),
        latex(found, paper),
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


def beside_cell(pair: Pair | None) -> str:
    """A cell of the tables beside the paper, in one line."""
    if pair is None:
        return "–"
    ours = f"{written(pair.ours.value)} ({pair.ours.value.count})" if pair.ours else "–"
    if pair.figure.table == "Appendix B":
        return ours  # the paper's are not known
    parts = [ours, written(pair.theirs) if pair.theirs else "–"]
    if pair.ours:
        parts.append(", ".join(([signed(pair.difference)] if pair.difference is not None else []) + [pair.verdict]))
    return " / ".join(parts)


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": tables.percent, "duration": runs.duration, "energy": runs.energy, "link": link, "md": markdown,
        "svg": Markup, "signed": signed, "written": written,
    }  # fmt: skip
    return environment


def _css() -> Markup:
    return Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))


def _script() -> dict[str, str]:
    """The page's one script, and the hash by which the page lets it run, and no other."""
    text = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    code = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"text": Markup(text), "hash": f"sha256-{code}"}


def _axes(grid: Collected) -> dict[str, list[Any]]:
    """The grid's values, axis by axis."""
    cells = [run.cell for run in grid.runs]
    return {
        "dataset": tables.unique(cell.dataset for cell in cells),
        "backbone": tables.unique(cell.backbone for cell in cells),
        "method": tables.unique(cell.method for cell in cells),
        "seed": tables.unique(cell.seed for cell in cells),
        "target": tables.unique(score.cell.target for score in grid.scores),
        "protocol": tables.unique(score.cell.protocol for score in grid.scores),
    }


def _groups(every: Sequence[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """The seeds of each method × dataset × backbone."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in every:
        groups.setdefault((run.cell.method, run.cell.dataset, run.cell.backbone), []).append(run)
    return groups


def _curves(groups: dict[tuple[str, str, str], list[Run]]) -> list[Curves]:
    found = []
    for place, group in groups.items():
        panels = curves.curves(group, "-".join(place))
        if panels:
            title = "{} on {}, {}".format(*place)
            found.append(Curves(title, panels, {run.cell.seed: run.cell.history for run in group}))
    return found
