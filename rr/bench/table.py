"""A benchmark's findings as text for people."""

from typing import Any

_COLUMNS = ("", "per second", "wall ms", "(quartiles)", "CPU ms", "ratio", "(quartiles)", "CPU ratio")


def render(found: dict[str, Any]) -> str:
    """All parts, one table each."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"]
    lines += [versions, f"load average {_load(found['load'])}", ""]
    for name, part in found["parts"].items():
        lines += [f"{name} ({part['seconds']:.0f} s, load average {_load(part['load'])})"]
        lines += _table(part["rows"])
        lines += [f"  - {note}" for note in part["notes"]] + [""]
    lines.append(
        "Medians. Ratio: a unit's time over rr's, turn by turn; above 1, rr is faster. CPU ratio: of all cores' time."
    )
    return "\n".join(lines)


def _load(load: dict[str, list[float]]) -> str:
    return f"{load['before'][0]:.1f} before, {load['after'][0]:.1f} after"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells: list[tuple[str, ...]] = [_COLUMNS] if rows else []
    for row in rows:
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        cells.append((f"{row['case']}; {threads}, {row['sides'][0]['wall']['count']} turns",))
        for side in row["sides"]:
            wall, ratio, cpu_ratio = side["wall"], side["ratio"], side["cpu_ratio"]
            cells.append(
                (
                    f"  {side['name']}",
                    f"{_short(side['per_second'])} {row['unit']}",
                    _short(1e3 * wall["median"]),
                    f"{_short(1e3 * wall['q1'])}–{_short(1e3 * wall['q3'])}",
                    _short(1e3 * side["cpu"]["median"]),
                    f"{ratio['median']:.2f}" if ratio else "",
                    f"{ratio['q1']:.2f}–{ratio['q3']:.2f}" if ratio else "",
                    f"{cpu_ratio['median']:.2f}" if cpu_ratio else "",
                )
            )
    table = [line for line in cells if len(line) > 1]
    widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))] if table else []
    lines = []
    for line in cells:
        if len(line) == 1:
            lines.append(f"  {line[0]}")
        else:
            first, *rest = (
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  " + "  ".join([first, *rest]).rstrip())
    return lines


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
