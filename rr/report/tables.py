"""Figures with their mean and deviation over seeds: rows are methods, columns are protocols or metrics."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rr.report.inputs.collect import Collected, Score
from rr.report.statistics import Spread, spread

ROLES = {"random": "lower bound", "supervised": "upper bound"}
Place = tuple[str, str, str]  # dataset, backbone, target


def percent(share: float) -> str:
    """A share in [0, 1] as percent with two decimals, without the sign; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.2f}"


def plain(value: float) -> str:
    """A value as it is, with three decimals and a minus that is one."""
    return f"{value:.3f}".replace("-", "−")


@dataclass(frozen=True)
class Column:
    """What a column shows: a metric of a protocol. `compared` where the highest is the best."""

    title: str
    protocol: str
    metric: str
    shown: Callable[[float], str] = percent
    compared: bool = True


@dataclass(frozen=True)
class Cell:
    """One method's figure, over all seeds, and how to write it."""

    value: Spread
    best: bool  # the highest of the self-supervised methods, as printed
    scores: list[Score]
    shown: Callable[[float], str]

    def of(self, seed: int) -> Score | None:
        """The evaluation of one seed; None where that seed did not run."""
        return next((score for score in self.scores if score.cell.pretraining.seed == seed), None)


@dataclass(frozen=True)
class Row:
    """One method; `role` is empty for the self-supervised ones.

    `cells` are by the column's title, in the order of the columns, and hold none where nothing ran: of several grids,
    one may have a method without a protocol of another.
    """

    method: str
    role: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """What the backbones of one dataset are worth on one target."""

    dataset: str
    backbone: str
    target: str
    columns: list[Column]
    seeds: list[int]
    rows: list[Row]

    @property
    def name(self) -> str:
        """A word for links: only characters that names in params.yaml may have."""
        return f"{self.dataset}-{self.backbone}-{self.target}"

    @property
    def titles(self) -> list[str]:
        return [column.title for column in self.columns]

    @property
    def protocol(self) -> str:
        """The first column's protocol."""
        return self.columns[0].protocol

    @property
    def over(self) -> str:
        """The number of seeds behind the figures in words; two numbers where they differ."""
        return over([cell.value.count for row in self.rows for cell in row.cells.values()])

    @property
    def sizes(self) -> str:
        """How many pictures and classes the target has, where every evaluation says the same."""
        every = [score.metrics for row in self.rows for cell in row.cells.values() for score in cell.scores]
        found = {(metrics.get("test_images"), metrics.get("classes")) for metrics in every}
        images, classes = found.pop() if len(found) == 1 else (None, None)
        return f"{images:,.0f} test pictures, {classes:,.0f} classes" if images and classes else ""


def places(scores: Sequence[Score]) -> dict[Place, list[Score]]:
    """The scores by dataset, backbone and target."""
    groups: dict[Place, list[Score]] = {}
    for score in scores:
        run = score.cell.pretraining
        groups.setdefault((run.dataset, run.backbone, score.cell.target), []).append(score)
    return groups


def table(grid: Collected, place: Place, scores: list[Score], columns: list[Column]) -> Table:
    """One table of `columns` from the scores of `place`; their methods are its rows."""
    rows = [Row(method, ROLES.get(grid.kinds[method], ""), {}) for method in unique(_method(s) for s in scores)]
    for column in columns:
        here = [score for score in scores if score.cell.protocol == column.protocol]
        cells = [[score for score in here if _method(score) == row.method] for row in rows]
        values = [spread([score.metrics[column.metric] for score in cell]) if cell else None for cell in cells]
        # Compared as printed: of two figures that read the same, bold must not pick one.
        ours = [column.compared and not row.role for row in rows]
        shown = [column.shown(v.mean) for v, one in zip(values, ours, strict=True) if v and one]
        best = max(shown, key=float, default=None)
        for row, value, one, cell in zip(rows, values, ours, cells, strict=True):
            if value:
                row.cells[column.title] = Cell(value, one and column.shown(value.mean) == best, cell, column.shown)
    return Table(*place, columns, unique(score.cell.pretraining.seed for score in scores), rows)


def over(counts: Iterable[int]) -> str:
    """Numbers of seeds in words: "1 seed", "3 seeds", "1 to 3 seeds"."""
    found = set(counts) or {0}
    fewest, most = min(found), max(found)
    return f"{most} seed{'' if most == 1 else 's'}" if fewest == most else f"{fewest} to {most} seeds"


def first_seeds(scores: Sequence[Score]) -> list[Score]:
    """The first score of each method."""
    first: dict[str, Score] = {}
    for score in scores:
        first.setdefault(_method(score), score)
    return list(first.values())


def unique(values: Iterable[Any]) -> list[Any]:
    """The different values, in their order."""
    return list(dict.fromkeys(values))


def _method(score: Score) -> str:
    return score.cell.pretraining.method
