"""Format numbers and text for the page, its Markdown version and the LaTeX tables."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rr.report.statistics import MeanStd
from rr.runtime.formatting import format_count

_ENERGY_SOURCES = {"processors": "processors", "gpus": "GPUs"}


def format_percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals but no percent sign, or a dash for NaN."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def format_two_decimals(value: float) -> str:
    """Return a number with two decimals."""
    return f"{value:.2f}"


def format_three_decimals(value: float) -> str:
    """Return a number with three decimals and a typographic minus sign."""
    return f"{value:.3f}".replace("-", "−")


def format_any_number(value: float) -> str:
    """Return a number with three decimals or, if it is very small or large, four significant digits."""
    is_usual = value == 0 or 0.001 <= abs(value) < 1e6
    return format_three_decimals(value) if is_usual else f"{value:.4g}".replace("-", "−")


def shorten_middle(text: str, max_length: int) -> str:
    """Return the text, with an ellipsis in the middle if it has more than `max_length` characters."""
    start = max_length // 2
    return text if len(text) <= max_length else f"{text[:start]}…{text[len(text) - (max_length - start - 1) :]}"


def format_difference(points: float) -> str:
    """Return a difference in percentage points with its sign and two decimals."""
    return f"{points:+.2f}".replace("-", "−")


def format_mean_std(value: MeanStd, format_value: Callable[[float], str]) -> str:
    """Return "mean ± standard deviation", or only the mean of a single value."""
    std = "" if value.std is None else f" ± {format_value(value.std)}"
    return f"{format_value(value.mean)}{std}"


def format_exact_duration(seconds: float) -> str:
    """Return a duration as text in seconds, minutes or hours, e.g. "1 min 16 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def format_energy(joules: Mapping[str, float]) -> str:
    """Return the energy in watt-hours per source (`processors`, `gpus`), or a dash if no energy was measured."""
    parts = [
        f"{joules[source] / 3600:,.2f} Wh ({name})" for source, name in _ENERGY_SOURCES.items() if source in joules
    ]
    return " + ".join(parts) or "–"


def format_seed_counts(counts: Iterable[int]) -> str:
    """Return the range of seed counts as text: "1 seed", "3 seeds" or "1 to 3 seeds"."""
    distinct = set(counts) or {0}
    low, high = min(distinct), max(distinct)
    return format_count(high, "seeds") if low == high else f"{low} to {format_count(high, 'seeds')}"


def seed_note(counts: Iterable[int]) -> str:
    """Return a sentence that says how many seeds the means are based on, with a caveat if there is only one seed."""
    distinct = set(counts)
    if distinct == {1}:
        return "Only one seed was run, so the variation between seeds is unknown."
    return f"Means are over {format_seed_counts(distinct)}."


def letter_label(index: int) -> str:
    """Return the label of the item with this index (from 0): A to Z, then A1, A2 and so on."""
    return chr(ord("A") + index) if index < 26 else f"A{index - 25}"


def join_words(words: Sequence[str], conjunction: str = "and") -> str:
    """Return "a", "a and b" or "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
