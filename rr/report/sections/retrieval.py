"""Retrieval: how well the training pictures nearest to a test picture share its class, in figures and in pictures."""

from dataclasses import dataclass

from rr.report.inputs.collect import Collected, Score, depths
from rr.report.plots.picture import Sheet, sheet
from rr.report.tables import Column, Table, first_seeds, places, table, unique

_CAPTION = (
    "One row per query, the first test picture of a class; beside it its ten nearest training pictures, the nearest "
    "first. A green frame marks the query’s class, a red one another."
)


@dataclass(frozen=True)
class Retrieval:
    """One target under one retrieval protocol; `sheets` shows the first seed of every method."""

    table: Table
    sheets: list[Sheet]


def retrievals(grid: Collected) -> list[Retrieval]:
    """One per dataset × backbone → target × protocol; the order is the grid's."""
    found = []
    for place, scores in places(grid.of_kind("retrieval")).items():
        for protocol in unique(score.cell.protocol for score in scores):
            here = [score for score in scores if score.cell.protocol == protocol]
            columns = _columns(protocol, depths(here[0].settings))
            sheets = [_sheet(score) for score in first_seeds(here)]
            found.append(Retrieval(table(grid, place, here, columns), sheets))
    return found


def _columns(protocol: str, ks: list[int]) -> list[Column]:
    words = {"precision": "precision", "recall": "recall", "hit_rate": "hit rate"}
    at = [Column(f"{word} at {k}", protocol, f"{name}_at_{k}") for name, word in words.items() for k in ks]
    return [Column("mAP", protocol, "mean_average_precision"), *at]


def _sheet(score: Score) -> Sheet:
    run = score.cell.pretraining
    title = f"{run.method} on {run.dataset}, {run.backbone}, seed {run.seed}"
    return sheet(title, _CAPTION, score.examples, score.cell.examples, largest=1)
