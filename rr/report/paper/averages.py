"""The two averages in the paper's abstract, computed from the paper's results and from ours."""

import statistics
from collections.abc import Sequence

from rr.report.formatting import format_difference, join_words
from rr.report.grouping import group_by
from rr.report.paper.published import name_in_paper
from rr.report.paper.tables import ComparisonCell, ComparisonTable

BASELINES = ("deepcluster", "rotation", "infomax", "simclr")
_RIVALS = {"the mean of the four self-supervised baselines": BASELINES, "SimCLR": ("simclr",)}


def describe_averages_in_abstract(table: ComparisonTable) -> list[str]:
    """Return a sentence on each average in the abstract: the margin of relational reasoning in Table 1 (`table`).

    The abstract's "+14%" is the margin over the mean of four baselines, although the abstract calls it the margin over
    the best competitor. The "+3%" is the margin over SimCLR. The sentence includes our average only if none of our
    results is missing.
    """
    sentences = []
    for rivals, methods in _RIVALS.items():
        rows = {title: table.rows[title] for title in map(name_in_paper, ("relational", *methods))}
        published = [[cell.published_value.mean for cell in row if cell.published_value] for row in rows.values()]
        matches = [[cell.match for cell in row if cell.match] for row in rows.values()]
        theirs = format_difference(mean_margin_of_first_row(published))
        if any(len(row) < len(table.columns) for row in matches):
            values = f"{theirs} points in the paper, unknown here. Missing: {_describe_missing(table, rows)}."
        else:
            ours = format_difference(mean_margin_of_first_row([[match.value.mean for match in row] for row in matches]))
            has_deviations = any(match.deviations for row in matches for match in row)
            settings = "settings that differ from the paper’s" if has_deviations else "the paper’s settings"
            values = f"{ours} points in our runs (with {settings}), {theirs} in the paper."
        margin = f"Margin of relational reasoning over {rivals}"
        sentences.append(f"{margin}, averaged over the {len(table.columns)} columns of Table 1: {values}")
    return sentences


def mean_margin_of_first_row(rows: Sequence[Sequence[float]]) -> float:
    """Return by how much the first row exceeds the mean of the other rows, averaged over the columns."""
    first, *others = rows
    return statistics.fmean(ours - statistics.fmean(column) for ours, *column in zip(first, *others, strict=True))


def _describe_missing(table: ComparisonTable, rows: dict[str, list[ComparisonCell]]) -> str:
    """List the methods that have missing results, and the columns in which they are missing."""
    by_missing_columns = group_by(
        rows, lambda row: tuple(c for c, cell in zip(table.columns, rows[row], strict=True) if not cell.match)
    )
    return "; ".join(
        f"{join_words(titles)} ({'all columns' if len(columns) == len(table.columns) else ', '.join(columns)})"
        for columns, titles in by_missing_columns.items()
        if columns
    )
