"""The paper's tables in its own layout, each cell with our answer to it and what may be said of the two."""

from dataclasses import dataclass

from rr.report.inputs.collect import Collected
from rr.report.paper.match import Answer, answer, verdict
from rr.report.paper.published import SEEDS, Figure, figures, word
from rr.report.statistics import Spread
from rr.report.tables import unique

TABLES = {
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


def paper_table(grid: Collected, name: str) -> PaperTable:
    """The table called `name` (of `TABLES`) with what the grid has to say to it."""
    printed = [one for one in figures() if one.table == name]
    pairs = {(_row(one), _column(one)): _pair(one, answer(grid, one)) for one in printed}
    rows, columns = (unique(key[side] for key in pairs) for side in (0, 1))
    # Of what was not recovered there is nothing to show but what we have.
    if name == "Appendix B":
        columns = [title for title in columns if any((pair := pairs.get((row, title))) and pair.ours for row in rows)]
        rows = [title for title in rows if any((pair := pairs.get((title, c))) and pair.ours for c in columns)]
    cells = {row: [pairs.get((row, column)) for column in columns] for row in rows}
    return PaperTable(name, TABLES[name], columns, cells, _notes(pairs))


def _pair(figure: Figure, ours: Answer | None) -> Pair:
    return Pair(figure, ours, verdict(figure, ours))


def _row(figure: Figure) -> str:
    if (figure.table, figure.method) == ("Heads", "relational"):
        return "Relation module"
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


def signed(points: float) -> str:
    """A difference in percentage points with its sign and two decimals."""
    return f"{points:+.2f}".replace("-", "−")


def written(value: Spread) -> str:
    """Mean ± standard deviation of accuracies in percent; no deviation where there is none."""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.2f}"
    return f"{value.mean:.2f}{deviation}"
