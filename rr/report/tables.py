"""Accuracies, one table per dataset × backbone → target: rows are methods, columns are protocols."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rr.report.collect import Collected, Score, Spread, spread

ROLES = {"random": "lower bound", "supervised": "upper bound"}


@dataclass(frozen=True)
class Cell:
    """One method under one protocol, over all seeds."""

    accuracy: Spread
    best: bool  # the highest of the self-supervised methods, as printed
    scores: list[Score]


@dataclass(frozen=True)
class Row:
    """One method; `role` is empty for the self-supervised ones."""

    method: str
    role: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Table:
    """What the backbones of one dataset are worth on one target."""

    dataset: str
    backbone: str
    target: str
    protocols: list[str]
    seeds: list[int]
    rows: list[Row]

    @property
    def name(self) -> str:
        """A word for links: only characters that names in params.yaml may have."""
        return f"{self.dataset}-{self.backbone}-{self.target}"

    @property
    def sizes(self) -> str:
        """How many pictures and classes the target has, where every evaluation says the same."""
        every = [score.metrics for row in self.rows for cell in row.cells.values() for score in cell.scores]
        found = {(metrics.get("test_images"), metrics.get("classes")) for metrics in every}
        images, classes = found.pop() if len(found) == 1 else (None, None)
        return f"{images:,.0f} test pictures, {classes:,.0f} classes" if images and classes else ""


def percent(share: float) -> str:
    """A share in [0, 1] as percent with two decimals, without the sign."""
    return f"{100 * share:.2f}"


def tables(grid: Collected) -> list[Table]:
    """Group the scores; the order of everything is the grid's."""
    kinds = {run.cell.method: run.settings["kind"] for run in grid.runs}
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in grid.scores:
        run = score.cell.pretraining
        groups.setdefault((run.dataset, run.backbone, score.cell.target), []).append(score)
    return [_table(place, scores, kinds) for place, scores in groups.items()]


def _table(place: tuple[str, str, str], scores: list[Score], kinds: dict[str, str]) -> Table:
    methods = _unique(score.cell.pretraining.method for score in scores)
    protocols = _unique(score.cell.protocol for score in scores)
    rows = [Row(method, ROLES.get(kinds[method], ""), {}) for method in methods]
    for protocol in protocols:
        here = [score for score in scores if score.cell.protocol == protocol]
        column = [[score for score in here if score.cell.pretraining.method == row.method] for row in rows]
        means = [spread([score.metrics["accuracy"] for score in cell]) for cell in column]
        # Compared as printed: of two figures that read the same, bold must not pick one.
        best = max((float(percent(m.mean)) for m, row in zip(means, rows, strict=True) if not row.role), default=None)
        for row, mean, cell in zip(rows, means, column, strict=True):
            row.cells[protocol] = Cell(mean, not row.role and float(percent(mean.mean)) == best, cell)
    return Table(*place, protocols, _unique(score.cell.pretraining.seed for score in scores), rows)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
