"""The page `index.html` and its Markdown version `report.md`, both rendered from the same sections."""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rr import paths
from rr.report.environment import make_environment
from rr.report.inputs.collect import GridResults
from rr.report.plots.image import ImagePanel
from rr.report.sections.accuracies import Accuracies, build_accuracies
from rr.report.sections.classes import ClassAnalysis, build_classes
from rr.report.sections.comparison import Comparison, build_comparison
from rr.report.sections.curves import TrainingCurves, build_curves
from rr.report.sections.dynamics import Dynamics, build_dynamics
from rr.report.sections.efficiency import Efficiency, build_efficiency
from rr.report.sections.embedding import EmbeddingTable, build_embedding
from rr.report.sections.retrieval import RetrievalTable, build_retrieval
from rr.report.sections.runs import Runs, build_runs
from rr.report.sections.settings import build_settings
from rr.report.sections.summary import Summary, build_summary
from rr.report.sections.versions import Versions, build_versions
from rr.report.sections.views import build_views
from rr.report.text_table import TextTable

_TEMPLATES = Path(__file__).parent / "templates"
_TITLES = {
    "comparison": "Comparison with the paper",
    "background": "Background",
    "accuracies": "Accuracies",
    "classes": "Classes",
    "retrieval": "Retrieval",
    "embedding": "Embedding",
    "curves": "Curves",
    "dynamics": "Dynamics",
    "efficiency": "Efficiency",
    "views": "Views",
    "runs": "Runs",
    "settings": "Settings",
}


@dataclass(frozen=True)
class Sections:
    """The content of the page. A section without content is None or empty, and does not appear."""

    summary: Summary
    versions: Versions
    comparison: Comparison | None
    accuracies: Accuracies | None
    classes: list[ClassAnalysis]
    retrieval: list[RetrievalTable]
    embedding: list[EmbeddingTable]
    curves: list[TrainingCurves]
    dynamics: list[Dynamics]
    efficiency: list[Efficiency]
    views: list[ImagePanel]
    runs: Runs
    settings: dict[str, TextTable]


def build_sections(results: GridResults) -> Sections:
    """Return all sections of the page."""
    return Sections(
        summary=build_summary(results),
        versions=build_versions(results),
        comparison=build_comparison(results),
        accuracies=build_accuracies(results),
        classes=build_classes(results),
        retrieval=build_retrieval(results),
        embedding=build_embedding(results),
        curves=build_curves(results),
        dynamics=build_dynamics(results),
        efficiency=build_efficiency(results),
        views=build_views(results),
        runs=build_runs(results),
        settings=build_settings(results),
    )


def render_html(sections: Sections) -> str:
    """Return the page, which needs no other file except for its links."""
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    # The page's Content-Security-Policy permits only the script with this hash.
    script_hash = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _report_environment(autoescape=True).get_template("page.html")
    return template.render(_context(sections), style=style, script=script, script_hash=script_hash)


def render_markdown(sections: Sections) -> str:
    """Return the content of the page in GitHub's Markdown, with links to the images instead of plots."""
    return _report_environment(autoescape=False).get_template("page.md").render(_context(sections))


def escape_markdown(text: Any) -> str:
    """Return text for a cell of a GitHub table, on one line and with all markup escaped."""
    line = " ".join(str(text).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(character, entity)
    return "".join(f"\\{character}" if character in "\\|`*~[]" else character for character in line)


def relative_link(path: Path) -> str:
    """Return the path of a file relative to the page."""
    return Path(os.path.relpath(path, paths.REPORT_DIR)).as_posix()


def _context(sections: Sections) -> dict[str, Any]:
    contents = {name: title for name, title in _TITLES.items() if getattr(sections, name, True)}
    has_several_seeds = len(sections.summary.axes["seed"]) > 1
    return {"sections": sections, "contents": contents, "has_several_seeds": has_several_seeds}


def _report_environment(*, autoescape: bool) -> Environment:
    environment = make_environment(_TEMPLATES, autoescape=autoescape)
    environment.filters |= {"link": relative_link, "md": escape_markdown}
    return environment
