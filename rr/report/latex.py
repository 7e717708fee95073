"""The accuracies, and our figures beside the paper's, as LaTeX tables for a paper of one's own."""

from collections.abc import Sequence

from rr.report.beside import Beside
from rr.report.printed import Pair, PaperTable, signed, written
from rr.report.tables import Cell, Table

_HEAD = "% Written by rr report. In the preamble: \\usepackage{booktabs}. Then \\input{tables.tex}.\n"
_LETTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$", "−": "$-$", "–": "--",
    "’": "'",
}  # fmt: skip


def latex(accuracies: Sequence[Table], beside: Beside | None) -> str:
    """One `table` each, in booktabs' style; what a reader must know stands in the caption."""
    found = [_accuracies(table) for table in accuracies]
    found += [_beside(table) for table in beside.tables] if beside else []
    return "\n".join([_HEAD, *found])


def escaped(text: str) -> str:
    """Text in which no letter is a command of LaTeX."""
    return "".join(_LETTERS.get(letter, letter) for letter in text)


def _accuracies(table: Table) -> str:
    spread = "" if len(table.seeds) == 1 else "mean ± standard deviation over "
    caption = (
        f"Accuracy in percent on {table.target} of {table.backbone} pretrained on {table.dataset}, {spread}"
        f"{table.over}. Bold: the best self-supervised method of a column."
    )
    rows = [
        [escaped(f"{row.method} ({row.role})" if row.role else row.method)]
        + [_accuracy(row.cells.get(title)) for title in table.titles]
        for row in table.rows
    ]
    return _table(caption, f"accuracies-{table.name}", ["Method", *table.titles], rows)


def _accuracy(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    deviation = "" if cell.value.deviation is None else f" ± {cell.shown(cell.value.deviation)}"
    text = escaped(f"{cell.shown(cell.value.mean)}{deviation}")
    return rf"\textbf{{{text}}}" if cell.best else text


def _beside(table: PaperTable) -> str:
    """Three lines per method, as in the page's cells: ours, the paper's, and what the pair says."""
    caption = (
        f"{table.title}. Ours, mean ± standard deviation in percent (number of seeds), the paper’s over three seeds, "
        "and ours less the paper’s in percentage points with the verdict of Welch’s 95 % interval."
    )
    notes = f" Differences: {'; '.join(table.notes)}." if table.notes else ""
    rows = []
    for name, row in table.rows.items():
        for label, shown in ((name, _ours), ("paper", _theirs), ("difference", _verdict)):
            first = escaped(label) if shown is _ours else rf"\quad {label}"
            rows.append([first, *(escaped(shown(pair)) for pair in row)])
    label = f"beside-{table.name.lower().replace(' ', '-')}"
    return _table(f"{caption} {table.absent}{notes}".strip(), label, ["", *table.columns], rows)


def _ours(pair: Pair | None) -> str:
    return f"{written(pair.ours.value)} ({pair.ours.value.count})" if pair and pair.ours else "–"


def _theirs(pair: Pair | None) -> str:
    return written(pair.theirs) if pair and pair.theirs else "–"


def _verdict(pair: Pair | None) -> str:
    if not (pair and pair.ours):
        return ""
    return f"{signed(pair.difference)}, {pair.verdict}" if pair.difference is not None else pair.verdict


def _table(caption: str, label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` are LaTeX already, all else is text."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, titles)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
