"""Format counts, sizes, rates, times and plain-text tables for messages and progress lines."""

import time
from collections.abc import Iterable, Sequence

_MAX_LISTED = 10  # names


def utc_now() -> str:
    """Return the current time in UTC, e.g. "2026-01-31T09:30:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def format_duration(seconds: float) -> str:
    """Return a duration in the largest suitable unit, e.g. "45 s", "12 min", "3.5 h" or "2.1 d"."""
    if seconds < 99.5:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def format_names(names: Sequence[str]) -> str:
    """Return the first ten names, separated by commas, and how many more there are. The names must be printable."""
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


def format_rate(rate: float, unit: str) -> str:
    """Return a positive rate as units per second, or as time per unit if a unit takes more than a second.

    `unit` is the plural name of the unit, ending in s. Bytes are shown in megabytes.
    """
    if unit == "bytes":
        return f"{rate / 1e6:,.1f} MB/s"
    if rate >= 0.995:
        return f"{rate:,.0f} {unit}/s" if rate >= 9.95 else f"{rate:.1f} {unit}/s"
    seconds = 1 / rate
    duration = f"{seconds:.1f} s" if seconds < 9.95 else format_duration(seconds)
    return f"{duration}/{unit.removesuffix('s')}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest suitable unit, e.g. "24 kB", "3.9 MB" or "1.90 GB"."""
    if count >= 999_950_000:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 999_500 else f"{count / 1e3:,.0f} kB"


def format_count(count: int, unit: str, singular: str = "") -> str:
    """Return a number with its unit, such as "1 image" for the count 1 and the unit "images".

    Bytes are shown in megabytes. `singular` defaults to `unit` without its final s.
    """
    if unit == "bytes":
        return f"{count / 1e6:,.1f} MB"
    return f"{count:,} {(singular or unit.removesuffix('s')) if count == 1 else unit}"


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int) -> str:
    """Return a table as plain text, one line per row, without borders, colors, wrapping or truncation.

    The cells are text without line breaks. The first `text_columns` columns are left-aligned, and the others are
    right-aligned.
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
