"""The paper's tables with our figures in them, what each pair says, and the paper's headlines from our own figures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rr.report.answers import Answer, answer, verdict
from rr.report.collect import Collected, Spread
from rr.report.paper import SEEDS, Figure, figures, word
from rr.report.studies import Study, studies
from rr.report.tables import unique

BASELINES = ("deepcluster", "rotation", "infomax", "simclr")
_TABLES = {
    "Table 1": "Table 1: linear evaluation, transfer, grain and finetuning",
    "Table 2": "Table 2: linear evaluation with both backbones",
    "Table 3": "Table 3: linear evaluation on SlimageNet64",
    "Heads": "The head ablation, ResNet-32",
    "Appendix B": "What of the paper’s appendix could not be recovered",
}
_ACROSS = {"Table 3"}  # its methods stand in one row


@dataclass(frozen=True)
class Pair:
    """A figure of the paper and our answer to it, both in percent; either may be absent."""

    figure: Figure
    ours: Answer | None
    verdict: str

    @property
    def theirs(self) -> Spread | None:
        if self.figure.mean is None:
            return None
        return Spread(self.figure.mean, self.figure.std, SEEDS)

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in percentage points."""
        return self.ours.value.mean - self.theirs.mean if self.ours and self.theirs else None


@dataclass(frozen=True)
class PaperTable:
    """One table in the paper's layout; `cells` are by row and column, None where the paper has no such cell.

    `notes` says of our methods (with their protocol) in what they differ from the paper's, and in which cells.
    """

    name: str
    title: str
    columns: list[str]
    rows: dict[str, list[Pair | None]]
    notes: list[str]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for row in self.rows.values() for pair in row if pair]

    @property
    def answered(self) -> bool:
        return any(pair.ours for pair in self.pairs)

    @property
    def absent(self) -> str:
        """Which rows and columns were not run, in a sentence; empty where every one has an answer somewhere."""
        rows = [name for name, row in self.rows.items() if not any(pair and pair.ours for pair in row)]
        columns = [
            name
            for place, name in enumerate(self.columns)
            if not any(row[place] and row[place].ours for row in self.rows.values())  # type: ignore[union-attr]
        ]
        return f"Not run: {', '.join([*columns, *rows])}." if rows or columns else ""


@dataclass(frozen=True)
class Beside:
    """The section: a sentence that counts, the tables, the sentences of the headlines, and the studies."""

    sentence: str
    tables: list[PaperTable]
    left_out: str
    headlines: list[str]
    studies: list[Study]


def beside(grid: Collected) -> Beside | None:
    """What the grid says to the paper's figures; None where it answers none."""
    every = [_table(grid, name) for name in _TABLES]
    found = [table for table in every if table.answered]
    drawn = studies(grid)
    if not found and not drawn:
        return None
    left_out = [table.name for table in every if not table.answered and table.name != "Appendix B"]
    return Beside(
        _sentence([pair for table in found for pair in table.pairs]),
        found,
        f"Nothing in this grid answers {' or '.join(left_out).replace('Heads', 'the head ablation')}." * bool(left_out),
        _headlines(every[0]) if every[0].answered else [],
        drawn,
    )


def signed(points: float) -> str:
    """A difference in percentage points with its sign and two decimals."""
    return f"{points:+.2f}".replace("-", "−")


def written(value: Spread) -> str:
    """Mean ± standard deviation of accuracies in percent; no deviation where there is none."""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.2f}"
    return f"{value.mean:.2f}{deviation}"


def _table(grid: Collected, name: str) -> PaperTable:
    printed = [one for one in figures() if one.table == name]
    pairs = {(_row(one), _column(one)): _pair(one, answer(grid, one)) for one in printed}
    rows, columns = (unique(key[side] for key in pairs) for side in (0, 1))
    # Of what was not recovered there is nothing to show but what we have.
    if name == "Appendix B":
        columns = [title for title in columns if any((pair := pairs.get((row, title))) and pair.ours for row in rows)]
        rows = [title for title in rows if any((pair := pairs.get((title, c))) and pair.ours for c in columns)]
    cells = {row: [pairs.get((row, column)) for column in columns] for row in rows}
    return PaperTable(name, _TABLES[name], columns, cells, _notes(pairs))


def _pair(figure: Figure, ours: Answer | None) -> Pair:
    return Pair(figure, ours, verdict(figure, ours))


def _row(figure: Figure) -> str:
    return word(figure.backbone) if figure.table in _ACROSS else word(figure.method)


def _column(figure: Figure) -> str:
    if figure.table in _ACROSS:
        return word(figure.method)
    if figure.target == "stl10":
        return "finetuning on STL-10"
    if figure.target == "cifar100-20":
        title = "grain CIFAR-100-20"
    elif figure.dataset != figure.target:
        title = f"{word(figure.dataset)} → {word(figure.target)}"
    else:
        title = word(figure.target)
    return f"{word(figure.backbone)}: {title}" if figure.table in ("Table 2", "Appendix B") else title


def _notes(pairs: dict[tuple[str, str], Pair]) -> list[str]:
    """In what our methods differ, each once with the cells it holds for."""
    places: dict[str, list[str]] = {}
    for (row, column), pair in pairs.items():
        if pair.ours and pair.ours.differences:
            label = f"{row} as {pair.ours.method}, {pair.ours.protocol}: {', '.join(pair.ours.differences)}"
            places.setdefault(label, []).append(column)
    several = len({tuple(columns) for columns in places.values()}) > 1
    return [f"{label} ({', '.join(columns)})" if several else label for label, columns in places.items()]


def _sentence(pairs: Sequence[Pair]) -> str:
    """How many of the paper's figures are answered, and with what verdicts; one in two tables counts once."""
    distinct = {
        (one.figure.method, one.figure.backbone, one.figure.dataset, one.figure.target): one
        for one in pairs
        if one.ours
    }
    found = [one.verdict for one in distinct.values()]
    order = ("agrees", "above", "below", "reduced budget", "other settings", "too few seeds")
    counted = [f"{found.count(one)} “{one}”" for one in order if one in found]
    if not counted:
        return ""
    total = sum(found.count(one) for one in order)
    cells = "1 cell of this grid answers" if total == 1 else f"{total} cells of this grid answer"
    return f"{cells} a figure of the paper: {', '.join(counted)}."


def _headlines(table: PaperTable) -> list[str]:
    """The abstract's two averages over the six columns of Table 1, from ours where all that they need is there."""
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
