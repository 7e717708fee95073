"""Text tables, from which the HTML, Markdown and LaTeX tables are rendered."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Column:
    """The heading of a column, its CSS class and, for the column of a method, the number of the method's color.

    Columns of class "number" are right-aligned and sorted by value.
    """

    title: str
    css_class: Literal["", "number", "name", "nowrap"] = ""
    color: int | None = None


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: the content. A mean with a standard deviation is written as "mean ± std".
        note: a short note printed after the text.
        link: the file that the text links to.
        is_bold: whether the text is set in bold.
        sort_key: the number to sort by, if it cannot be parsed from the text.
        color: number of the color (from 1) that marks the cell, or None.
    """

    text: str
    note: str = ""
    link: Path | None = None
    is_bold: bool = False
    sort_key: float | None = None
    color: int | None = None

    @property
    def full_text(self) -> str:
        """The text with the note in parentheses."""
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True)
class Table:
    """A table whose first column holds the row titles."""

    columns: list[Column]
    rows: list[list[Cell]]


def make_table(
    columns: Sequence[Column | str], rows: Iterable[Sequence[Cell | str]], omitted: Collection[str] = ()
) -> Table:
    """Return a table without the columns whose titles are in `omitted`.

    A plain string stands for a column without a CSS class, or for a cell without any other attributes.
    """
    all_columns = [Column(column) if isinstance(column, str) else column for column in columns]
    kept = [index for index, column in enumerate(all_columns) if column.title not in omitted]
    cells = [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return Table([all_columns[i] for i in kept], [[row[i] for i in kept] for row in cells])


def numeric_columns(titles: Iterable[str]) -> list[Column]:
    """Return one numeric column per title."""
    return [Column(title, "number") for title in titles]
