"""Which of the grid's cells answers which of the paper's figures: by what the runs recorded, not by their names.

Data sets and targets alone go by their names in params.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rr.report.inputs.collect import Collected, Run, Score
from rr.report.paper.published import SEEDS, Figure
from rr.report.paper.settings import differences, reduced
from rr.report.paper.welch import agreement
from rr.report.statistics import Spread, spread


@dataclass(frozen=True)
class Answer:
    """Our cell for a figure of the paper: accuracy in percent over seeds, and in what it differs, in words."""

    method: str
    protocol: str
    value: Spread
    epochs: int
    differences: list[str]
    reduced: bool


def answer(grid: Collected, figure: Figure) -> Answer | None:
    """The cell that measures what `figure` does; of several, the one nearest to the paper's settings; None without one.

    Nearest is who differs in fewest settings, then who trained longest, then who stands first in the grid.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    runs = {run.cell: run for run in grid.runs}
    for score in grid.scores:
        cell = score.cell
        place = (cell.pretraining.dataset, cell.pretraining.backbone, cell.target)
        if place == (figure.dataset, figure.backbone, figure.target) and measures(
            figure, runs[cell.pretraining].settings, score.settings
        ):
            groups.setdefault((cell.pretraining.method, cell.protocol), []).append(score)
    found = [_answer(figure, runs[scores[0].cell.pretraining], scores) for scores in groups.values()]
    return min(found, key=lambda one: (len(one.differences), -one.epochs), default=None)


def measures(figure: Figure, method: dict[str, Any], protocol: dict[str, Any]) -> bool:
    """Whether a run with these settings does what `figure` reports, be it with more or with less of everything."""
    if protocol["kind"] != figure.protocol or protocol["labelled"] != 1:
        return False
    kind, head = figure.method, "relation"
    if kind in ("dot", "encoder-dot"):
        kind, head = "relational", kind
    if method["kind"] != kind:
        return False
    wanted: dict[str, Any] = {}
    if kind == "relational":
        wanted = {"head": head, "aggregation": "cat", "loss": "focal", "labelled": figure.labelled or 0.0}
    elif kind == "simclr":
        wanted = {"mean": "of-ratios"}
    return all(method[key] == value for key, value in wanted.items())


def verdict(figure: Figure | None, ours: Answer | None) -> str:
    """What may be said of our figure beside the paper's, in a word or three."""
    if ours is None:
        return "not run"
    if figure is None or figure.status == "not given":
        return "no figure in the paper"
    if figure.mean is None:
        return "figure not recovered"
    if ours.reduced:
        return "reduced budget"
    if ours.differences:
        return "other settings"
    if ours.value.count < 2:
        return "too few seeds"
    if figure.std is None or figure.status != "confirmed":
        return "figure not confirmed"
    return agreement(ours.value, Spread(figure.mean, figure.std, SEEDS))


def departures(figure: Figure, run: Run, score: Score) -> list[str]:
    """In what a run and its evaluation differ from those behind `figure`, in words; empty where in nothing."""
    mixed = run.record.params.get("precision", "float32") != "float32"
    return differences(figure, run.settings, score.settings) + ["mixed precision"] * mixed


def _answer(figure: Figure, run: Run, scores: Sequence[Score]) -> Answer:
    return Answer(
        method=run.cell.method,
        protocol=scores[0].cell.protocol,
        value=spread([100 * score.metrics["accuracy"] for score in scores]),
        epochs=run.settings.get("epochs", 0),
        differences=departures(figure, run, scores[0]),
        reduced=reduced(figure, run.settings, scores[0].settings),
    )
