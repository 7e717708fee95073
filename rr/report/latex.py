"""The accuracies, and our figures beside the paper's, as LaTeX tables for a paper of one's own."""

from collections.abc import Sequence

from rr.report.paper.comparison import Beside
from rr.report.paper.tables import Pair, PaperTable, signed, written
from rr.report.tables import Cell, Table

_HEAD = "% Written by rr report. In the preamble: \\usepackage{booktabs}. Then \\input{tables.tex}.\n"
_LETTERS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$", "−": "$-$", "–": "--",
    "’": "'",
}  # fmt: skip
_COLUMNS = 4  # as many figures as stand beside each other on a page of an article; more go into a table of their own


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
    """Four lines per method, as in the page's cells: ours, the paper's, and what the pair says; of what was run."""
    if table.name == "Appendix B":  # whose figures are not known
        rows = [[escaped(name), *(escaped(_ours(pair)) for pair in row)] for name, row in table.rows.items()]
        caption = f"{table.title}: ours alone, mean ± standard deviation in percent (number of seeds)."
        return _table(caption, "beside-appendix-b", ["", *table.columns], rows)
    title = f"The paper’s {table.title}" if table.title.startswith("Table") else table.title
    caption = (
        f"{title}. Ours, mean ± standard deviation in percent (number of seeds), the paper’s over three seeds, "
        "and ours less the paper’s in percentage points with the verdict of Welch’s 95 % interval."
    )
    notes = f" Differences: {'; '.join(table.notes)}." if table.notes else ""
    run = [
        place for place, cells in enumerate(zip(*table.rows.values(), strict=True)) if any(p and p.ours for p in cells)
    ]
    rows = []
    for name, row in table.rows.items():
        lines = ((name, _ours), ("paper", _theirs), ("difference", _difference), ("verdict", _verdict))
        for label, shown in lines:
            first = escaped(label) if shown is _ours else rf"\quad {label}"
            rows.append([first, *(escaped(shown(row[place])) for place in run)])
    label = f"beside-{table.name.lower().replace(' ', '-')}"
    titles = ["", *(table.columns[place] for place in run)]
    return _table(f"{caption} {table.absent}{notes}".strip(), label, titles, rows)


def _ours(pair: Pair | None) -> str:
    return f"{written(pair.ours.value)} ({pair.ours.value.count})" if pair and pair.ours else "–"


def _theirs(pair: Pair | None) -> str:
    return written(pair.theirs) if pair and pair.theirs else "–"


def _difference(pair: Pair | None) -> str:
    return signed(pair.difference) if pair and pair.difference is not None else ""


def _verdict(pair: Pair | None) -> str:
    return pair.verdict if pair and pair.ours else ""


def _table(caption: str, label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` are LaTeX already, all else is text. Columns that find no room go into further tables behind the first."""
    parts = []
    for number, start in enumerate(range(1, max(len(titles), 2), _COLUMNS), 1):
        taken = slice(start, start + _COLUMNS)
        parts.append(
            _part(
                caption if number == 1 else "Continued from the table before.",
                label if number == 1 else f"{label}-{number}",
                [titles[0], *titles[taken]],
                [[row[0], *row[taken]] for row in rows],
            )
        )
    return "\n".join(parts)


def _heading(title: str) -> str:
    """A column's title in two lines, broken before its last word."""
    start, space, end = title.rpartition(" ")
    return rf"\shortstack[r]{{{escaped(start)}\\{escaped(end)}}}" if space else escaped(title)


def _part(caption: str, label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\medskip",
        rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        " & ".join(map(_heading, titles)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
