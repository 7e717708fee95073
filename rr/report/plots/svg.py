"""How every picture of the page is drawn: SVG that takes its colours and its font from the page.

Every panel is a small picture of its own, so that a phone shows one below the other at a size that can be read.
Matplotlib draws with the stand-in colours of `_COLOURS`; `draw` puts the page's in their place.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, RULE = "#010101", "#010102"
SERIES = [f"#0101{place:02x}" for place in range(0x11, 0x11 + 20)]
_COLOURS = {INK: "currentColor", RULE: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollars is no formula
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
    """One picture: `svg` to put into the page, and the names of its series with the numbers of their colours."""

    title: str
    svg: str
    series: dict[str, int] = field(default_factory=dict)


def draw(name: str, height: float, spoken: str, content: Callable[[Axes], None]) -> str:
    """Return what `content` draws as an element of the page, `height` inches high and 3.4 wide.

    `name` makes its ids unique; `spoken` is for those who hear the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The page's own font writes the letters, so it does not matter which of them Matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(3.4, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        content(axes)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _element(file.getvalue(), name, spoken)


def _element(text: str, name: str, spoken: str) -> str:
    """Matplotlib's file as an element with its own ids and the page's colours."""
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    # A hundredth of a point is finer than any screen, and a map of thousands of points is half as large.
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    for stand_in, colour in _COLOURS.items():
        body = body.replace(stand_in, colour)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(spoken)}">{body}'.rstrip()
