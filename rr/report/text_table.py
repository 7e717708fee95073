"""Tables of text, the form in which HTML, Markdown and LaTeX print a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TextColumn:
    """The heading of a column and its CSS class; numbers are aligned right and sorted by value."""

    title: str
    css_class: Literal["", "number", "name", "nowrap"] = ""

    @property
    def is_number(self) -> bool:
        """Whether the column holds numbers."""
        return self.css_class == "number"


@dataclass(frozen=True)
class TextCell:
    """One cell.

    Attributes:
        text: the content; for a mean with a standard deviation "mean ± std".
        note: a short remark printed after the text.
        link: a file that the text links to.
        is_bold: whether the text is set in bold.
        sort_key: the number to sort by if it cannot be read from the text.
    """

    text: str
    note: str = ""
    link: Path | None = None
    is_bold: bool = False
    sort_key: float | None = None

    @property
    def full_text(self) -> str:
        """The text with the note in brackets."""
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True)
class TextTable:
    """A table whose first column names the rows."""

    columns: list[TextColumn]
    rows: list[list[TextCell]]

    def without(self, titles: Iterable[str]) -> "TextTable":
        """Return the table without the columns of these titles."""
        removed = set(titles)
        kept = [index for index, column in enumerate(self.columns) if column.title not in removed]
        return TextTable([self.columns[i] for i in kept], [[row[i] for i in kept] for row in self.rows])


def text_table(columns: Sequence[TextColumn | str], rows: Iterable[Sequence[TextCell | str]]) -> TextTable:
    """Return a table; a plain string becomes a column or cell without further attributes."""
    return TextTable(
        [TextColumn(column) if isinstance(column, str) else column for column in columns],
        [[TextCell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows],
    )


def number_columns(titles: Iterable[str]) -> list[TextColumn]:
    """Return one column of numbers per title."""
    return [TextColumn(title, "number") for title in titles]
