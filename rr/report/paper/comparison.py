"""The section that sets our figures beside the paper's: its tables, the abstract's averages, and the studies."""

from collections.abc import Sequence
from dataclasses import dataclass

from rr.report.inputs.collect import Collected
from rr.report.paper.averages import headlines
from rr.report.paper.studies import Study, studies
from rr.report.paper.tables import TABLES, Pair, PaperTable, paper_table


@dataclass(frozen=True)
class Beside:
    """The section: a sentence that counts, the tables, the sentences of the headlines, and the studies."""

    sentence: str
    tables: list[PaperTable]
    left_out: str
    headlines: list[str]
    studies: list[Study]


def beside(grid: Collected) -> Beside | None:
    """What the grid says to the paper's figures; None where it answers none."""
    every = [paper_table(grid, name) for name in TABLES]
    found = [table for table in every if table.answered]
    drawn = studies(grid)
    if not found and not drawn:
        return None
    left_out = [table.name for table in every if not table.answered and table.name != "Appendix B"]
    return Beside(
        _sentence([pair for table in found for pair in table.pairs]),
        found,
        f"Nothing in this grid answers {' or '.join(left_out).replace('Heads', 'the head ablation')}." * bool(left_out),
        headlines(every[0]),
        drawn,
    )


def _sentence(pairs: Sequence[Pair]) -> str:
    """How many of the paper's figures are answered, and with what verdicts; one in two tables counts once."""
    distinct = {
        (one.figure.method, one.figure.backbone, one.figure.dataset, one.figure.target): one
        for one in pairs
        if one.ours
    }
    found = [one.verdict for one in distinct.values()]
    order = ("agrees", "above", "below", "reduced budget", "other settings", "too few seeds")
    counted = [f"{found.count(one)} “{one}”" for one in order if one in found]
    if not counted:
        return ""
    total = sum(found.count(one) for one in order)
    cells = "1 cell of this grid answers" if total == 1 else f"{total} cells of this grid answer"
    return f"{cells} a figure of the paper: {', '.join(counted)}."
