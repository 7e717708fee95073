"""The two averages of the paper's abstract, from our own figures."""

import statistics
from collections.abc import Sequence

from rr.report.paper.published import word
from rr.report.paper.tables import Pair, PaperTable, signed

BASELINES = ("deepcluster", "rotation", "infomax", "simclr")


def headlines(table: PaperTable) -> list[str]:
    """Relational reasoning above its rivals over the columns of Table 1, a sentence each; ours where none is missing.

    The abstract's "+14 %" is the distance to the mean of four baselines (although it says the best competitor), its
    "+3 %" that to SimCLR.
    """
    found = []
    for words, rivals in (
        ("the mean of the four self-supervised baselines", BASELINES),
        ("SimCLR", ("simclr",)),
    ):
        needed = [word(one) for one in ("relational", *rivals)]
        rows = {name: table.rows[name] for name in needed}
        theirs = headline([[pair.theirs.mean for pair in row if pair and pair.theirs] for row in rows.values()])
        start = f"Relational reasoning above {words}, averaged over the {len(table.columns)} columns"
        missing: dict[str, list[str]] = {}
        for name, row in rows.items():
            if any(pair and not pair.ours for pair in row):
                missing.setdefault(_columns_without(table, row), []).append(name)
        if missing:
            wanting = [f"{_joined(names)} ({columns})" for columns, names in missing.items()]
            text = f"{start}: {signed(theirs)} points in the paper; here not known, for want of {'; '.join(wanting)}."
        else:
            ours = headline([[pair.ours.value.mean for pair in row if pair and pair.ours] for row in rows.values()])
            full = all(
                pair and not pair.ours.differences for row in rows.values() for pair in row if pair and pair.ours
            )
            budget = "in the paper’s budget" if full else "not in the paper’s budget"
            text = f"{start}: {signed(ours)} points here ({budget}), {signed(theirs)} in the paper."
        found.append(text)
    return found


def headline(rows: Sequence[Sequence[float]]) -> float:
    """Mean over columns of the first row less the mean of the others; each row one method, in percent."""
    first, *others = rows
    return statistics.fmean(ours - statistics.fmean(column) for ours, *column in zip(first, *others, strict=True))


def _columns_without(table: PaperTable, row: Sequence[Pair | None]) -> str:
    missing = [name for name, pair in zip(table.columns, row, strict=True) if pair and not pair.ours]
    return "every column" if len(missing) == len(table.columns) else ", ".join(missing)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
