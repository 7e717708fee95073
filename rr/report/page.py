"""Render the page (`index.html`) and its Markdown version (`report.md`) from the same sections."""

import html
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rr import paths
from rr.report.inputs.collect import GridResults
from rr.report.jinja import make_jinja_environment
from rr.report.plots.image_map import TEMPLATES, content_security_policy_hash, image_map_script, read_asset
from rr.report.sections.accuracies import build_accuracies
from rr.report.sections.claims import build_claims
from rr.report.sections.classes import build_classes
from rr.report.sections.curves import build_curves
from rr.report.sections.dynamics import build_dynamics
from rr.report.sections.efficiency import build_efficiency
from rr.report.sections.embedding import build_embedding
from rr.report.sections.own_protocols import build_own_protocols
from rr.report.sections.paper_comparison import build_comparison
from rr.report.sections.retrieval import build_retrieval
from rr.report.sections.runs import build_runs
from rr.report.sections.settings import build_settings
from rr.report.sections.summary import build_summary
from rr.report.sections.view_counts import build_accuracy_by_view_count
from rr.report.sections.views import build_view_examples

# Name, title and build function of each section, in page order. Each section's template has the section's name. A
# section whose content is None or empty does not appear.
_SECTIONS: dict[str, tuple[str, Callable[[GridResults], Any]]] = {
    "paper_comparison": ("Comparison with the paper", build_comparison),
    "claims": ("Claims", build_claims),
    "background": ("Background", lambda results: True),
    "views": ("Views", build_view_examples),
    "accuracies": ("Accuracies", build_accuracies),
    "view_counts": ("Number of views", build_accuracy_by_view_count),
    "classes": ("Classes", build_classes),
    "retrieval": ("Retrieval", build_retrieval),
    "embedding": ("Embedding", build_embedding),
    "own_protocols": ("Your own protocols", build_own_protocols),
    "curves": ("Curves", build_curves),
    "dynamics": ("Dynamics", build_dynamics),
    "efficiency": ("Efficiency", build_efficiency),
    "runs": ("Runs", build_runs),
    "settings": ("Settings", build_settings),
}
# The page collapses lists that are longer than these limits, so that the page stays readable for a large grid.
_LIMITS = {
    "MAX_UNFOLDED": 2,  # tables per section
    "MAX_FIGURES": 6,  # figures per section
    "MAX_RUNS": 30,  # rows in the table of pretraining runs
    "MAX_WARNINGS": 2,
}


def build_sections(results: GridResults) -> dict[str, Any]:
    """Return the content of each section by name. The header is included as "summary"."""
    return {"summary": build_summary(results)} | {name: build(results) for name, (_, build) in _SECTIONS.items()}


def render_html(sections: dict[str, Any]) -> str:
    """Return the page as HTML. It needs no other files, except those that it links to."""
    style = read_asset("colors.css") + read_asset("page.css")
    scripts = [read_asset("sort.js") + read_asset("page.js")]
    if sections["embedding"]:
        style += read_asset("image_map.css")
        scripts.append(image_map_script())
    # The page's Content-Security-Policy permits only these scripts.
    script_sources = " ".join(map(content_security_policy_hash, scripts))
    template = _make_report_environment(autoescape=True).get_template("page.html")
    return template.render(_template_variables(sections), style=style, scripts=scripts, script_sources=script_sources)


def render_markdown(sections: dict[str, Any]) -> str:
    """Return the content of the page as GitHub Flavored Markdown, with links to the images instead of plots."""
    return _make_report_environment(autoescape=False).get_template("page.md").render(_template_variables(sections))


def escape_markdown(text: Any) -> str:
    """Return text for a cell of a GitHub table: one line, with all markup escaped.

    An underscore within a word is not markup.
    """
    line = html.escape(" ".join(str(text).split()), quote=False)
    markup = r"[\\|`*~\[\]$]|(?<!\w)_+|_+(?!\w)"
    return re.sub(markup, lambda match: "".join(f"\\{character}" for character in match[0]), line)


def relative_link(path: Path) -> str:
    """Return a file's path relative to the page's folder, with forward slashes.

    The path needs no URL quoting, because its names contain only letters, digits, dots, hyphens and underscores.
    """
    return Path(os.path.relpath(path, paths.REPORT_DIR)).as_posix()


def _template_variables(sections: dict[str, Any]) -> dict[str, Any]:
    contents = {name: title for name, (title, _) in _SECTIONS.items() if sections[name]}
    has_several_seeds = any(len(entry.files) > 1 for entry in sections["curves"])
    return {"sections": sections, "contents": contents, "has_several_seeds": has_several_seeds}


def _make_report_environment(*, autoescape: bool) -> Environment:
    environment = make_jinja_environment(TEMPLATES, autoescape=autoescape)
    environment.filters |= {"link": relative_link, "md": escape_markdown}
    environment.globals |= _LIMITS
    return environment
