"""The audit: what a mean accuracy hides. Worst and best class, confusions, and whether confidence can be believed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rr.report.inputs.collect import Score
from rr.report.inputs.predictions import Guesses
from rr.report.plots.confusion import NUMBERED, confusion_panel, reliability_panel
from rr.report.plots.svg import Panel
from rr.report.sections.summary import best_row, caution
from rr.report.statistics import Spread, spread
from rr.report.tables import Table, percent

BINS = 15  # of confidence, as those of the calibration error
DRAWN = 20  # classes up to which a confusion matrix can be read
_PAIRS = 10


@dataclass(frozen=True)
class Extremes:
    """One method under one protocol; each class's accuracy is a share, the mean over seeds, NaN without a picture."""

    method: str
    protocol: str
    class_names: list[str]
    accuracies: list[float]
    worst: int
    best: int
    calibration: Spread
    mistakes: Path

    @property
    def gap(self) -> float:
        """How far the best class lies above the worst; a share."""
        return self.accuracies[self.best] - self.accuracies[self.worst]


@dataclass(frozen=True)
class Audit:
    """The audit of one table. Pictures, pairs and classes are those of its first protocol, `pairs` by method."""

    table: Table
    rows: list[Extremes]
    sentence: str
    confusions: list[Panel]
    reliability: list[Panel]
    pairs: dict[str, list[str]]

    @property
    def first(self) -> list[Extremes]:
        return [row for row in self.rows if row.protocol == self.table.protocol]

    @property
    def numbered(self) -> bool:
        """Whether the matrices of confusions have numbers in them."""
        return len(self.rows[0].class_names) <= NUMBERED


def audits(tables: Sequence[Table]) -> list[Audit]:
    """One audit per table of accuracies."""
    return [_audit(table) for table in tables]


def pooled(scores: Sequence[Score]) -> Guesses:
    """The guesses of all seeds as one; each seed has the same test pictures, so shares of them are means over seeds."""
    found = [score.found for score in scores if isinstance(score.found, Guesses)]
    return Guesses(
        found[0].class_names,
        np.concatenate([one.labels for one in found]),
        np.concatenate([one.predictions for one in found]),
        np.concatenate([one.confidence for one in found]),
    )


def confusion(found: Guesses) -> np.ndarray:
    """Share of each true class (row) that got each prediction (column); float64 (C, C), NaN rows without a picture."""
    size = len(found.class_names)
    counts = np.bincount(found.labels * size + found.predictions, minlength=size * size).reshape(size, size)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def reliability(found: Guesses) -> list[tuple[float, float]]:
    """Mean confidence and accuracy of the guesses in each bin that has any; bin b of 15 is ((b − 1) / 15, b / 15]."""
    bins = np.clip(np.ceil(found.confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    confidence = np.bincount(bins, found.confidence, BINS)[filled] / counts[filled]
    accuracy = np.bincount(bins, found.labels == found.predictions, BINS)[filled] / counts[filled]
    return list(zip(confidence.tolist(), accuracy.tolist(), strict=True))


def confused(found: Guesses) -> list[str]:
    """The ten pairs of true class and wrong prediction with the largest shares, in words; the first of equals first."""
    shares = np.nan_to_num(confusion(found))
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_PAIRS]
    names = found.class_names
    pairs = [(shares.flat[i], names[i // len(names)], names[i % len(names)]) for i in order.tolist()]
    return [f"{true} as {guess}: {percent(share)}" for share, true, guess in pairs if share > 0]


def _audit(table: Table) -> Audit:
    rows, confusions, curves, pairs = [], [], [], {}
    for row in table.rows:
        for protocol, cell in row.cells.items():
            found = pooled(cell.scores)
            rows.append(_extremes(row.method, protocol, found, cell.scores))
            if protocol != table.protocol:
                continue
            name = f"{table.name}-{row.method}"
            if len(found.class_names) <= DRAWN:
                confusions.append(confusion_panel(f"confusion-{name}", row.method, found.class_names, confusion(found)))
            else:
                pairs[row.method] = confused(found)
            curves.append(reliability_panel(f"reliability-{name}", row.method, reliability(found)))
    return Audit(table, rows, _sentence(table, rows), confusions, curves, pairs)


def _extremes(method: str, protocol: str, found: Guesses, scores: Sequence[Score]) -> Extremes:
    own = np.diagonal(confusion(found))
    return Extremes(
        method,
        protocol,
        found.class_names,
        own.tolist(),
        int(np.nanargmin(own)),
        int(np.nanargmax(own)),
        spread([score.metrics["calibration_error"] for score in scores]),
        scores[0].cell.examples,
    )


def _sentence(table: Table, rows: Sequence[Extremes]) -> str:
    """How far the best method's classes lie apart; nothing more than these figures say."""
    best = best_row(table, table.protocol) or next(row for row in table.rows if table.protocol in row.cells)
    one = next(row for row in rows if (row.method, row.protocol) == (best.method, table.protocol))
    cell = best.cells[table.protocol]
    highest, lowest = (f"{percent(one.accuracies[i])} % of {one.class_names[i]}" for i in (one.best, one.worst))
    return (
        f"A good mean does not guarantee unbiased predictions: {one.method} ({one.protocol}) classifies "
        f"{percent(cell.value.mean)} % of the test pictures of {table.target} correctly, but {highest} and {lowest}, "
        f"{percent(one.gap)} percentage points apart. {caution([cell.value.count])}"
    )
