"""The `paper_comparison` section: our results next to the paper's tables, averages and studies."""

from collections.abc import Sequence
from dataclasses import dataclass

from rr.report.formatting import join_words
from rr.report.inputs.collect import GridResults
from rr.report.paper.averages import describe_averages_in_abstract
from rr.report.paper.backbone_gain import build_backbone_gain
from rr.report.paper.published import LIGHTLY
from rr.report.paper.tables import TITLES, ComparisonCell, ComparisonTable, comparison_table
from rr.report.paper.verdict import COMPARED, Verdict, describe_chance_differences, explain_verdicts
from rr.report.paper.views_and_labels import Study, build_studies
from rr.runtime.formatting import format_count

_COUNTED = (*COMPARED, Verdict.REDUCED_BUDGET, Verdict.OTHER_SETTINGS, Verdict.TOO_FEW_SEEDS)


@dataclass(frozen=True)
class Comparison:
    """The comparison with the paper.

    Attributes:
        sentence: how many of the paper's results have a counterpart in the grid, by verdict.
        chance: how many of them were compared, and how many differences are expected by chance alone.
        supervised_note: which accuracy of supervised networks is compared; empty if none is compared.
        verdicts: the meaning of each verdict that is counted or shown in a table.
        tables: the tables for which we have at least one result.
        missing: a sentence on the tables for which we have no result.
        averages: the sentences on the averages in the abstract; empty if no run corresponds to a result in the paper.
        studies: the gain from a deeper backbone, and the studies for which the grid has at least two points.
    """

    sentence: str
    chance: str
    supervised_note: str
    verdicts: dict[str, str]
    tables: list[ComparisonTable]
    missing: str
    averages: list[str]
    studies: list[Study]


def build_comparison(results: GridResults) -> Comparison | None:
    """Return the comparison with the paper, or None if no run in the grid corresponds to any of its results."""
    tables = {name: comparison_table(results, name) for name in TITLES}
    matched = [table for table in tables.values() if table.matched_cells]
    gain = build_backbone_gain(results)
    studies = [*([gain] if gain else []), *build_studies(results)]
    if not matched and not studies:
        return None
    missing = [
        name.replace("Heads", "the head ablation")
        for name, table in tables.items()
        if not table.matched_cells and name not in ("Appendix B", LIGHTLY)
    ]
    shown = {cell.verdict for table in matched if table.has_published_values for cell in table.matched_cells}
    verdicts = _distinct_verdicts([cell for table in matched for cell in table.matched_cells])
    return Comparison(
        _summarize_verdicts(verdicts),
        describe_chance_differences(verdicts),
        next((table.supervised_note for table in matched if table.supervised_note), ""),
        explain_verdicts({*_COUNTED, *shown}),
        matched,
        f"No run in this grid corresponds to {join_words(missing, 'or')}." if missing else "",
        describe_averages_in_abstract(tables["Table 1"]) if [table.name for table in matched] != [LIGHTLY] else [],
        studies,
    )


def _distinct_verdicts(cells: Sequence[ComparisonCell]) -> list[Verdict]:
    """Return the counted verdicts on matched results. A result in two tables is counted once."""
    distinct = {
        (cell.published.method, cell.published.backbone, cell.published.dataset, cell.published.target): cell.verdict
        for cell in cells
        if cell.published and cell.published.table != LIGHTLY
    }
    return [verdict for verdict in distinct.values() if verdict in _COUNTED]


def _summarize_verdicts(verdicts: Sequence[Verdict]) -> str:
    """Return a sentence with the number of matched results by verdict."""
    if not verdicts:
        return ""
    counts = [f"{verdicts.count(verdict)} “{verdict}”" for verdict in _COUNTED if verdict in verdicts]
    num_results = format_count(len(verdicts), "results")
    return f"Runs in this grid correspond to {num_results} in the paper: {', '.join(counts)}."
