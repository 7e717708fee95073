"""Tests of the plots: shortening an SVG moves nothing, and the axes of a confusion matrix."""

import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from rr.report.plots import svg
from rr.report.plots.confusion import plot_calibration, plot_confusion

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Shape(NamedTuple):
    """A drawn element: its tag, its text, its own and inherited attributes without numbers, and these numbers."""

    tag: str
    text: str | None
    attributes: dict[str, str]
    numbers: list[float]


def parse_svg(body: str) -> list[Shape]:
    """Return the shapes of an SVG from its text after the opening `<svg>` tag."""
    return list(iter_shapes(ElementTree.fromstring('<svg xmlns:xlink="http://www.w3.org/1999/xlink">' + body), {}))


def iter_shapes(element: ElementTree.Element, inherited: dict[str, str]) -> Iterator[Shape]:
    own = {name: value for name, value in element.attrib.items() if name != "id"}
    attributes = {**inherited, **own}
    if element.tag in ("path", "use", "text", "rect"):
        values = {name: expand_path(value) if name == "d" else value for name, value in attributes.items()}
        values["style"] = re.sub(r"\s|font-family:[^;]*;?", "", values.get("style", ""))
        if values.get("transform", "").startswith("rotate(-0 "):
            del values["transform"]
        numbers = [float(number) for name in sorted(values) for number in NUMBER.findall(values[name])]
        texts = {name: NUMBER.sub("", value).rstrip(";") for name, value in values.items()}
        yield Shape(element.tag, element.text, texts, numbers)
    for child in element:
        yield from iter_shapes(child, attributes)


def expand_path(path: str) -> str:
    """Return a path with a letter before each point, and with both coordinates of each point."""
    points: list[str] = []
    letter, x, y = "", "0", "0"
    tokens = iter(re.findall(rf"[A-Za-z]|{NUMBER.pattern}", path))
    for token in tokens:
        if token.isalpha():
            letter = token
            if letter == "z":
                points.append(letter)
                continue
            token = next(tokens)
        x, y = (token, y) if letter == "H" else (x, token) if letter == "V" else (token, next(tokens))
        points.append(f"{'L' if letter in 'HV' else letter} {x} {y}")
        letter = "L" if letter == "M" else letter
    return " ".join(points)


def test_shortening_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[tuple[str, str]] = []
    shorten = svg._shorten_svg

    def record(body: str) -> str:
        bodies.append((body, shorten(body)))
        return bodies[-1][1]

    monkeypatch.setattr(svg, "_shorten_svg", record)

    def plot(axes: Axes) -> None:
        rng = np.random.default_rng(0)
        axes.plot(rng.normal(size=300).cumsum(), label="long", color=svg.SERIES[0])
        axes.plot([0, 100, 150, 200, 250], [1, -3, np.nan, 2, 4], marker="o", color=svg.SERIES[1])
        axes.scatter(rng.normal(size=9), rng.normal(size=9))
        axes.bar([10, 60], [3, -4], 20)
        axes.add_patch(Circle((150, 0), 5))
        axes.legend()

    svg.render_svg("curves", 3, "", plot)
    plot_confusion("confusion", "", ["a", "b", "c"], np.array([[0.7, 0.3, 0], [0.1, 0.6, 0.3], [0, 0, 1]]))
    plot_calibration("calibration", "", {"a": [(0.1, 0.2), (0.5, 0.4), (0.9, 1)]}, {"a": 1})
    for body, shortened in bodies:
        before, after = parse_svg(body), parse_svg(shortened)
        assert len(shortened) < 0.8 * len(body)
        assert [shape[:3] for shape in after] == [shape[:3] for shape in before]
        for old, new in zip(before, after, strict=True):
            assert new.numbers == pytest.approx(old.numbers, abs=0.0501 if len(old.numbers) > 100 else 0.0051)


def test_rows_of_a_confusion_matrix_are_the_true_classes() -> None:
    panel = plot_confusion("confusion", "", ["cat", "dog"], np.array([[0.9, 0.1], [0.4, 0.6]]))
    assert panel.csv.splitlines() == ["true \\ predicted,cat,dog", "cat,0.9,0.1", "dog,0.4,0.6"]
    texts = re.findall(r'<text [^>]*x="([^"]*)" y="([^"]*)"[^>]*>(\d+)</text>', panel.svg)
    places = {text: (float(x), float(y)) for x, y, text in texts}
    assert places["40"] == (places["90"][0], places["60"][1])  # dog as cat: in the column of cat, in the row of dog
    assert places["90"][0] < places["60"][0]
    assert places["90"][1] < places["60"][1]
