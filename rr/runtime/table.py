"""Format plain-text tables."""

from collections.abc import Iterable, Sequence


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a table as plain text, one line per row, without borders, colors, wrapping or truncation.

    The cells are text without line breaks. The first `text_columns` columns are left-aligned, the others right-aligned.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column, name in enumerate(header):
        table.add_column(Text(name), justify="left" if column < text_columns else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=10**9, color_system=None)
    with console.capture() as output:
        console.print(table)
    return "\n".join(line.rstrip() for line in output.get().rstrip("\n").split("\n"))
