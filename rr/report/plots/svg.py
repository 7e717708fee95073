"""Plots as inline SVG with the colors and the font of the page.

Each panel is a separate small plot, so that a phone shows them one below the other at a readable size. Matplotlib draws
with the placeholder colors of `_COLORS`, which `render_svg` replaces with CSS colors of the page.
"""

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, RULE = "#010101", "#010102"  # placeholders for the colors of text and of lines
SERIES = [f"#0101{index:02x}" for index in range(0x11, 0x11 + 20)]  # placeholders for the colors of up to 20 series
# The colors themselves are in templates/colors.css, because the dark page has others.
_COLORS = {INK: "currentColor", RULE: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollar signs is not a formula
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Panel:
    """A plot.

    Attributes:
        title: the heading.
        svg: the plot as an SVG element.
        name: name of the files when the plot or its data are saved.
        csv: the data of the plot.
        series: by label of the legend, the number of its color, from 1, and of its line style, from 0.
    """

    title: str
    svg: str
    name: str
    csv: str
    series: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def csv_uri(self) -> str:
        """The data as a data URI."""
        return "data:text/csv;charset=utf-8," + quote(self.csv)


def format_csv(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Return the data of a plot as CSV, with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([value if isinstance(value, str) else f"{value:.6g}" for value in row] for row in rows)
    return text.getvalue()


def render_svg(id_prefix: str, height: float, alt_text: str, plot: Callable[[Axes], None]) -> str:
    """Return a plot as an SVG element.

    Args:
        id_prefix: prefix that makes the ids of the element unique on the page.
        height: height in inches; the width is 3.4 inches.
        alt_text: description of the plot for screen readers.
        plot: function that draws the plot on Matplotlib axes.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": id_prefix}), warnings.catch_warnings():
        # The browser renders the text in the page's font, so glyphs that Matplotlib's font lacks do not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(3.4, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        plot(axes)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline_svg(file.getvalue(), id_prefix, alt_text)


def _inline_svg(text: str, id_prefix: str, alt_text: str) -> str:
    """Turn Matplotlib's SVG file into an element with unique ids and the colors of the page."""
    view_box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{id_prefix}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{id_prefix}-', body)
    body = body.replace("url(#", f"url(#{id_prefix}-")
    # Two decimals are more precise than any screen.
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    for placeholder, color in _COLORS.items():
        body = body.replace(placeholder, color)
    return f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{escape(alt_text)}">{body}'.rstrip()
