"""The header of the page: the main finding, warnings, and the values of the grid's axes."""

from dataclasses import dataclass
from typing import Any

from rr.params import CLASSIFICATION_PROTOCOLS
from rr.report.formatting import format_mean_std, format_percent, format_two_decimals, join_words, seed_note
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults
from rr.report.method_roles import Role
from rr.report.result_tables import (
    ResultCell,
    ResultRow,
    ResultTable,
    accuracy_tables,
    group_by_method,
    split_by_target_and_protocol,
)
from rr.report.sections.code_versions import code_version_warnings
from rr.report.sections.embedding import collapse_warnings
from rr.report.statistics import mean_std
from rr.runtime.formatting import format_count

_MAX_TARGETS = 3  # with more targets, a sentence about each would make the header too long


@dataclass(frozen=True)
class Summary:
    """The header's content.

    Attributes:
        finding: the main finding.
        warnings: warnings about collapsed features, and about several versions of the code.
        axes: the values of each axis of the grid that has any.
    """

    finding: str
    warnings: list[str]
    axes: dict[str, list[Any]]


def build_summary(results: GridResults) -> Summary:
    """Return the header's content."""
    runs = [run.paths for run in results.pretrainings]
    evaluations = [run.paths for run in results.evaluations]
    axes: dict[str, list[Any]] = {
        "dataset": unique(run.dataset for run in runs),
        "backbone": unique(run.backbone for run in runs),
        "method": unique(run.method for run in runs),
        "seed": unique(run.seed for run in runs),
        "target": unique(run.target for run in evaluations),
        "protocol": unique(run.protocol for run in evaluations),
    }
    finding = "This grid has no evaluations, so the report shows only the pretraining runs."
    if evaluations:
        finding = f"{summarize_tables(accuracy_tables(results))}{_summarize_rankme(results)}"
    warnings = [*collapse_warnings(results), *code_version_warnings(results)]
    return Summary(finding, warnings, {axis: values for axis, values in axes.items() if values})


def _summarize_rankme(results: GridResults) -> str:
    """Return text on RankMe if the grid has exactly one embedding table and no classification protocol, or ""."""
    runs = results.evaluations_of_kind("embedding")
    if results.evaluations_of_kind(*CLASSIFICATION_PROTOCOLS) or len(split_by_target_and_protocol(runs)) != 1:
        return ""
    values = {
        method: mean_std([run.metrics["rankme"] for run in seeds]) for method, seeds in group_by_method(runs).items()
    }
    ranks = join_words([f"{format_mean_std(value, format_two_decimals)} for {name}" for name, value in values.items()])
    return (
        f" The number of directions that the features of {runs[0].paths.target} use (RankMe) is {ranks}. The "
        "“Embedding” section shows which images the network considers similar."
    )


def summarize_tables(tables: list[ResultTable]) -> str:
    """Return the main finding as text.

    With a few targets and one pretraining setting, this is the best method's accuracy on each target. Otherwise, it is
    the number of comparisons in which the best self-supervised methods reach their bounds.
    """
    if not tables:
        return "This grid has no classification protocol, so there are no accuracies to compare."
    if len(tables) == 1:
        return summarize_table(tables[0])
    if len(tables) <= _MAX_TARGETS and len({(table.dataset, table.backbone) for table in tables}) == 1:
        bests = [best for best in map(_find_best, tables) if best]
        if bests:
            sentences = [f"{_describe_best(best)}." for best in bests]
            return " ".join([*sentences, seed_note(best.cell.value.count for best in bests)])
    parts = []
    texts = {
        Role.LOWER_BOUND: "is above the random backbone",
        Role.UPPER_BOUND: "matches or exceeds the supervised backbone",
    }
    for role, text in texts.items():
        pairs = [
            (title, table.best_row(title), table.bound_row(role, title)) for table in tables for title in table.titles
        ]
        margins = [_margin(best, bound, title) for title, best, bound in pairs if best and bound]
        if margins:
            count = sum(margin > 0 or (margin == 0 and role == Role.UPPER_BOUND) for margin in margins)
            parts.append(f"{text} in {count} of {len(margins)} comparisons")
    if not parts:
        return (
            "There is nothing to compare: no table contains both a self-supervised method and either random weights "
            "or a supervised method."
        )
    text = f"The best self-supervised method in each table and protocol {' and '.join(parts)}. "
    return text + seed_note(count for table in tables for count in table.seed_counts)


def summarize_table(table: ResultTable) -> str:
    """Return sentences that compare the best self-supervised method with its bounds.

    If there is no self-supervised method, they are about the best method that is not a bound.
    """
    best = _find_best(table)
    if best is None:
        return "This table shows only bounds, because it has no self-supervised method."
    return f"{_describe_best(best)}{_position_between_bounds(best)}. {seed_note([best.cell.value.count])}"


@dataclass(frozen=True)
class _Best:
    """The best self-supervised method of a table, in the first protocol with such a method.

    If the table has no self-supervised method, this is the best method that is not a bound.
    """

    table: ResultTable
    protocol: str
    row: ResultRow

    @property
    def cell(self) -> ResultCell:
        return self.row.cells[self.protocol]

    def bound(self, role: Role) -> ResultRow | None:
        return self.table.bound_row(role, self.protocol)


def _find_best(table: ResultTable) -> _Best | None:
    for find_row in (table.best_row, table.main_row):
        for title in table.titles:
            if row := find_row(title):
                return _Best(table, title, row)
    return None


def _describe_best(best: _Best) -> str:
    """Return a sentence, without its period, that compares a table's best method with the bounds."""
    role = f" ({best.row.role})" if best.row.role else ""
    text = (
        f"On {best.table.target}, {best.row.method}{role} classifies "
        f"{format_mean_std(best.cell.value, format_percent)}% of the test images correctly ({best.protocol})"
    )
    num_tied = sum(row.cells[best.protocol].is_best for row in best.table.rows if best.protocol in row.cells) - 1
    if num_tied > 0:
        text += f", tied with {format_count(num_tied, 'other methods')}"
    comparisons = []
    for bound in filter(None, map(best.bound, (Role.LOWER_BOUND, Role.UPPER_BOUND))):
        margin = _margin(best.row, bound, best.protocol)
        word = "above" if margin > 0 else "below" if margin < 0 else "equal to"
        comparisons.append(f"{word} {bound.method} ({format_percent(bound.cells[best.protocol].value.mean)}%)")
    return f"{text}, {' and '.join(comparisons)}" if comparisons else text


def _position_between_bounds(best: _Best) -> str:
    """Return text on how far the accuracy is from the lower to the upper bound; empty if it is not between them."""
    lower, upper = map(best.bound, (Role.LOWER_BOUND, Role.UPPER_BOUND))
    if not (lower and upper):
        return ""
    low, high = (row.cells[best.protocol].value.mean for row in (lower, upper))
    if not low < best.cell.value.mean < high:
        return ""
    fraction = (best.cell.value.mean - low) / (high - low)
    return f". This is {100 * fraction:.0f}% of the way from the lower to the upper bound"


def _margin(row: ResultRow, bound: ResultRow, protocol: str) -> float:
    """Return by how many points a method's printed accuracy exceeds that of a bound."""
    ours, theirs = (float(format_percent(other.cells[protocol].value.mean)) for other in (row, bound))
    return ours - theirs
