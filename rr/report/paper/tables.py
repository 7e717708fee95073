"""The paper's tables in their original layout. Each cell shows the paper's result, our result and the verdict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rr.report.formatting import format_difference, format_mean_std, format_two_decimals, join_words, letter_label
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults
from rr.report.paper.match import Match, find_match
from rr.report.paper.published import LIGHTLY, PublishedResult, load_published, name_in_paper
from rr.report.paper.verdict import Verdict, decide_verdict
from rr.report.statistics import MeanStd
from rr.report.table import Table, make_table, numeric_columns

TITLES = {
    "Table 1": "Table 1: linear evaluation, transfer, coarse labels (grain) and finetuning",
    "Table 2": "Table 2: linear evaluation with both backbones",
    "Table 3": "Table 3: linear evaluation on SlimageNet64",
    "Heads": "The head ablation, ResNet-32",
    "Appendix B": "Results in the appendix whose values could not be recovered",
    LIGHTLY: "Not in the paper: lightly’s benchmark, kNN with k = 200, ResNet-18 (one run, best of 200 epochs)",
}
_SUPERVISED_NOTE = (
    "Supervised results on the training dataset are the accuracy of the trained network with its own linear layer. The "
    "authors’ code prints this accuracy at the end of supervised training, so the paper most likely reports it. The "
    "accuracy tables in this report also show the accuracy of a new linear layer on the frozen backbone."
)
_ROW_TITLES = {"Table 3": "Backbone", "Heads": "Head"}  # in all other tables, each row is a method


@dataclass(frozen=True)
class ComparisonCell:
    """A result from the paper, our corresponding result, and the verdict.

    All accuracies are in percent. `published` is None if the paper has no result in this row and column. `mark` is the
    letter that identifies our deviations in the list below the table, or "".
    """

    published: PublishedResult | None = None
    match: Match | None = None
    verdict: Verdict = Verdict.NOT_RUN
    mark: str = ""

    @property
    def published_value(self) -> MeanStd | None:
        """The paper's result, or None if its value is unknown."""
        if self.published is None or self.published.mean is None:
            return None
        return MeanStd(self.published.mean, self.published.std, self.published.num_seeds)

    @property
    def our_text_with_seeds(self) -> str:
        """Our result with the number of seeds in parentheses, or a dash if we have no result."""
        value = self.match and self.match.value
        return f"{format_mean_std(value, format_two_decimals)} ({value.count})" if value else "–"

    @property
    def published_text(self) -> str:
        """The paper's result, or a dash if its value is unknown."""
        return format_mean_std(self.published_value, format_two_decimals) if self.published_value else "–"

    @property
    def difference_text(self) -> str:
        """Our result minus the paper's in percentage points; empty if one of the two is missing."""
        if not (self.match and self.published_value):
            return ""
        return format_difference(self.match.value.mean - self.published_value.mean)

    @property
    def verdict_text(self) -> str:
        """The verdict with the mark of the deviations; empty if we have no result."""
        return f"{self.verdict}{f' [{self.mark}]' if self.mark else ''}" if self.match else ""


@dataclass(frozen=True)
class ComparisonTable:
    """One table in the paper's layout.

    Attributes:
        name: the name of the table in paper.csv.
        columns: the titles of the columns.
        rows: the cells by row title, with one cell per column.
        deviations: how our methods deviate from the paper's settings, and in which rows and columns, with their marks.
    """

    name: str
    columns: list[str]
    rows: dict[str, list[ComparisonCell]]
    deviations: list[str]

    @property
    def title(self) -> str:
        """The title of the table."""
        return TITLES[self.name]

    @property
    def first_column_title(self) -> str:
        """The heading of the first column, which says what the rows are."""
        return _ROW_TITLES.get(self.name, "Method")

    @property
    def row_colors(self) -> dict[str, int | None]:
        """The color number of our method in each row; None if a row has no method or several methods."""
        return {title: _only_color(row) for title, row in self.rows.items()}

    @property
    def column_colors(self) -> dict[str, int | None]:
        """The color number of our method in each column; None if the rows are methods."""
        is_method = self.first_column_title not in _ROW_TITLES.values()
        return {title: None if is_method else _only_color(cells) for title, cells in self._cells_by_column.items()}

    @property
    def _cells_by_column(self) -> dict[str, tuple[ComparisonCell, ...]]:
        return dict(zip(self.columns, zip(*self.rows.values(), strict=True), strict=True))

    @property
    def matched_cells(self) -> list[ComparisonCell]:
        """The cells for which we have a result."""
        return [cell for row in self.rows.values() for cell in row if cell.match]

    @property
    def matched_columns(self) -> list[str]:
        """The titles of the columns for which we have a result."""
        return [title for title, cells in self._cells_by_column.items() if any(cell.match for cell in cells)]

    @property
    def has_published_values(self) -> bool:
        """Whether the value of at least one of the paper's results is known."""
        return any(cell.published_value for row in self.rows.values() for cell in row)

    @property
    def coverage(self) -> str:
        """A sentence that lists the columns and rows for which we have no results."""
        if not self.has_published_values:
            return "The table shows only our results, because the paper’s values are unknown."
        missing = [title for title in self.columns if title not in self.matched_columns]
        missing += [title for title, row in self.rows.items() if not any(cell.match for cell in row)]
        return f"Not run: {', '.join(missing)}." if missing else "We have results for every row and column."

    @property
    def supervised_note(self) -> str:
        """A note that says which accuracy of supervised networks is compared; empty if no such accuracy is compared."""
        published = filter(None, (cell.published for cell in self.matched_cells))
        return _SUPERVISED_NOTE if any(result.is_trained_classifier_accuracy for result in published) else ""

    @property
    def as_table(self) -> Table:
        """The table as text, with each cell on one line."""
        rows = [[title, *map(self._cell_text, row)] for title, row in self.rows.items()]
        return make_table([self.first_column_title, *numeric_columns(self.columns)], rows)

    def _cell_text(self, cell: ComparisonCell) -> str:
        if cell.published is None or not self.has_published_values:
            return cell.our_text_with_seeds
        comparison = ", ".join(filter(None, [cell.difference_text, cell.verdict_text]))
        return " / ".join(filter(None, [cell.our_text_with_seeds, cell.published_text, comparison]))


def comparison_table(results: GridResults, name: str) -> ComparisonTable:
    """Return one of the paper's tables (`name` is a key of `TITLES`) together with our results."""
    cells = {}
    for published in load_published():
        if published.table == name:
            match = find_match(results, published)
            key = _row_title(published), _column_title(published)
            cells[key] = ComparisonCell(published, match, decide_verdict(published, match))
    # If the paper's values are unknown, show only the rows and columns for which we have results.
    shown = [key for key, cell in cells.items() if cell.match or name != "Appendix B"]
    columns = [title for title in unique(column for _, column in cells) if title in {column for _, column in shown}]
    titles = [title for title in unique(row for row, _ in cells) if title in {row for row, _ in shown}]
    deviations, marks = _list_deviations(cells)
    cells = {key: replace(cell, mark=marks.get(key, "")) for key, cell in cells.items()}
    rows = {row: [cells.get((row, column), ComparisonCell()) for column in columns] for row in titles}
    return ComparisonTable(name, columns, rows, deviations)


def _only_color(cells: Sequence[ComparisonCell]) -> int | None:
    colors = {cell.match.color for cell in cells if cell.match}
    return colors.pop() if len(colors) == 1 else None


def _row_title(published: PublishedResult) -> str:
    if (published.table, published.method) == ("Heads", "relational"):
        return "Relation module"
    return name_in_paper(published.backbone if published.table == "Table 3" else published.method)


def _column_title(published: PublishedResult) -> str:
    if published.table == "Table 3":
        return name_in_paper(published.method)
    if published.target == "stl10":
        return "finetuning on STL-10"
    if published.target == "cifar100-20":
        title = "grain CIFAR-100-20"
    elif published.dataset != published.target:
        title = f"{name_in_paper(published.dataset)} → {name_in_paper(published.target)}"
    else:
        title = name_in_paper(published.target)
    has_backbones = published.table in ("Table 2", "Appendix B")
    return f"{name_in_paper(published.backbone)}: {title}" if has_backbones else title


def _list_deviations(
    cells: dict[tuple[str, str], ComparisonCell],
) -> tuple[list[str], dict[tuple[str, str], str]]:
    """Return our methods' deviations from the paper's settings, each listed once, and the mark of each affected cell.

    The affected columns are listed unless the deviations apply to all of our results in the row.
    """
    columns_of: dict[tuple[str, str, str], list[str]] = {}
    num_matched = Counter(row for (row, _), cell in cells.items() if cell.match)
    for (row, column), cell in cells.items():
        if cell.match and cell.match.deviations:
            runs = f"{row} ({cell.match.method}, {cell.match.protocol})"
            columns_of.setdefault((row, runs, ", ".join(cell.match.deviations)), []).append(column)
    texts: list[str] = []
    marks: dict[tuple[str, str], str] = {}
    for index, ((row, runs, deviations), columns) in enumerate(columns_of.items()):
        mark = letter_label(index).lower()
        place = f" in {join_words(columns)}" if len(columns) < num_matched[row] else ""
        texts.append(f"[{mark}] {runs}{place}: {deviations}")
        marks |= {(row, column): mark for column in columns}
    return texts, marks
