"""Plots as inline SVG in the page's colors and font.

Each panel is a separate small plot, so that a phone shows them one below the other at a readable size. Matplotlib draws
with the placeholder colors in `_COLORS`, which `render_svg` replaces with the page's CSS colors.
"""

import csv
import hashlib
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
# The actual colors are in templates/colors.css, because the light and the dark version of the page use different ones.
_COLORS = {INK: "currentColor", RULE: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}
_LONG_PATH = 1000  # characters
# `_BARE_GROUP` matches a group without attributes that contains no other group. `_MARKERS` matches consecutive markers
# of the same style.
_BARE_GROUP = re.compile(r"<g>((?:[^<]|<(?!/?g[ >]))*)</g>")
_MARKERS = re.compile(r'<use [^>]* style="([^"]*)"/>(?:<use [^>]* style="\1"/>)+')
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.3,  # in points; this removes points from long curves without a visible change
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
        name: file name, without a suffix, under which the plot or its data are saved.
        csv: the data of the plot.
        series: for each label in the legend, the numbers of its color (from 1) and of its line style (from 0).
    """

    title: str
    svg: str
    name: str
    csv: str
    series: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def csv_uri(self) -> str:
        """The data as a data URI."""
        return "data:text/csv;charset=utf-8," + quote(self.csv, safe=" ,/")


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
    """Turn Matplotlib's SVG file into an element with unique ids and the page's colors."""
    view_box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _shorten_svg(body)
    prefix = f"p{hashlib.sha256(id_prefix.encode()).hexdigest()[:10]}"  # short, because a plot has many references
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    for placeholder, color in _COLORS.items():
        body = body.replace(placeholder, color)
    return f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{escape(alt_text)}">{body}'.rstrip()


def _shorten_svg(body: str) -> str:
    """Shorten an SVG without a visible change. This matters because a page can have a hundred plots.

    Matplotlib names every group, gives every text a list of fonts, and writes numbers with six decimals. Two decimals
    are more precise than any screen, and one is enough for a long curve.
    """
    body = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", body)
    body = re.sub(r'font-family: [^;"]*;? ?', "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r'(?<= d=")[^"]*', lambda path: _shorten_svg_path(path[0]), body)
    body = re.sub(r' (x|y|transform|width|height)="[^"]*"', lambda value: _round(value[0], 2), body)
    body = re.sub(r'style="[^"]*"', lambda style: style[0].replace("; ", ";").replace(": ", ":"), body)
    body = re.sub(r">\s+<", "><", body)
    body = body.replace("<g/>", "")
    while (shorter := _BARE_GROUP.sub(r"\1", body)) != body:
        body = shorter
    return _MARKERS.sub(_share_style, body)


def _share_style(markers: re.Match[str]) -> str:
    """Put markers of the same style in a group, and set the style only once for the group."""
    style = f' style="{markers[1]}"'
    return f"<g{style}>{markers[0].replace(style, '')}</g>"


def _shorten_svg_path(path: str) -> str:
    path = _round(" ".join(path.split()), 1 if len(path) > _LONG_PATH else 2)
    path = re.sub(r"M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 z", r"M\1 \2H\3V\4H\1z", path)  # a rectangle
    # Points after M and L need no letter of their own. A path with curves keeps its letters: without an L, a point that
    # follows a curve would be read as part of another curve.
    return path if re.search("[CQ]", path) else re.sub(r" L (?=[-\d])", " ", path)


def _round(text: str, decimals: int) -> str:
    """Return text in which all numbers have at most the given number of decimals."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.{decimals}f}".rstrip("0").rstrip("."), text)
