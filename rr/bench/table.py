"""Format benchmark results as text."""

from collections.abc import Iterator
from typing import Any

from rr.runtime.formatting import format_table

_HEADER = (
    "case", "implementation", "threads", "repeats", "per second", "wall ms", "quartiles", "CPU ms", "ratio",
    "quartiles", "CPU ratio",
)  # fmt: skip


def format_results(results: dict[str, Any]) -> str:
    """Return the results of all parts as text, with one table per part."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"]
    lines += [versions, f"load average {_format_load_averages(results['load'])}", ""]
    for name, part in results["parts"].items():
        lines += [f"{name} ({part['seconds']:.0f} s, load average {_format_load_averages(part['load'])})"]
        if part["cases"]:
            rows = [row for case in part["cases"] for row in _table_rows(case)]
            lines += [f"  {line}" for line in format_table(_HEADER, rows, text_columns=2).split("\n")]
        lines += [f"  - {note}" for note in part["notes"]] + [""]
    lines.append(
        "The numbers are medians over the repeats. The ratio is the time per unit divided by that of the first row of "
        "the case, which is usually rr. If it is above 1, the first row is faster. The CPU ratio is the same ratio, "
        "computed from the CPU time on all cores."
    )
    return "\n".join(lines)


def _format_load_averages(load: dict[str, list[float]]) -> str:
    return f"{load['before'][0]:.1f} before, {load['after'][0]:.1f} after"


def _table_rows(case: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield one row of text per candidate. Only the first row shows the name of the case."""
    case_name = case["case"]
    for candidate in case["candidates"]:
        wall, ratio, cpu_ratio = candidate["wall"], candidate["ratio"], candidate["cpu_ratio"]
        yield (
            case_name,
            candidate["name"],
            str(case["threads"]),
            str(wall["count"]),
            f"{_format_number(candidate['per_second'])} {case['unit']}",
            _format_number(1e3 * wall["median"]),
            f"{_format_number(1e3 * wall['q1'])}–{_format_number(1e3 * wall['q3'])}",
            _format_number(1e3 * candidate["cpu"]["median"]),
            f"{ratio['median']:.2f}" if ratio else "",
            f"{ratio['q1']:.2f}–{ratio['q3']:.2f}" if ratio else "",
            f"{cpu_ratio['median']:.2f}" if cpu_ratio else "",
        )
        case_name = ""


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
