"""Render the accuracies and the comparison with the paper as LaTeX tables for a publication.

`rr.report.formatting` formats the numbers.
"""

from collections.abc import Sequence

from rr.report.paper.tables import ComparisonTable
from rr.report.paper.verdict import describe_chance_differences, explain_verdicts
from rr.report.result_tables import ResultTable
from rr.report.sections.accuracies import Accuracies
from rr.report.sections.paper_comparison import Comparison
from rr.report.table import Cell

_HEADER = "% Written by rr report. Load booktabs (\\usepackage{booktabs}), then include this file with \\input.\n"
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\to$", "−": "$-$", "–": "--",
    "’": "'", "“": "``", "”": "''",
}  # fmt: skip
_BEST_IN_BOLD = " The best self-supervised method in each column is in bold."
_OUR_RESULT = "Our results are means ± standard deviations in percent, with the number of seeds in parentheses."
_THEIR_RESULT = (
    "The lines below each of our results contain the published result (in the paper, the mean over three seeds), "
    "the difference in percentage points, and the verdict. A letter after a verdict refers to the deviations."
)
_MAX_COLUMNS = 4  # number of result columns that fit on a page of an article; the rest go into additional tables


def render_latex(accuracies: Accuracies | None, comparison: Comparison | None) -> str:
    """Return a booktabs-style `table` environment for each table. All explanations are in the captions."""
    tables = [_render_accuracy_table(entry.table) for entry in accuracies.tables] if accuracies else []
    tables += [_render_comparison_table(table) for table in comparison.tables] if comparison else []
    return "\n".join([_HEADER, *tables])


def escape_latex(text: str) -> str:
    """Escape LaTeX's special characters in text."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _render_accuracy_table(table: ResultTable) -> str:
    statistic = "" if max(table.seed_counts) == 1 else "mean ± standard deviation over "
    caption = (
        f"Accuracy in percent on {table.target} of {table.backbone_text}, {statistic}{table.seeds_text}."
        f"{_BEST_IN_BOLD * table.marks_best} {table.roles_text}"
    ).strip()
    rows = [[_format_cell(cell) for cell in row] for row in table.as_table.rows]
    return _format_table(caption, f"accuracies-{table.name}", [column.title for column in table.as_table.columns], rows)


def _format_cell(cell: Cell) -> str:
    text = escape_latex(cell.full_text)
    return rf"\textbf{{{text}}}" if cell.is_bold else text


def _render_comparison_table(table: ComparisonTable) -> str:
    """Return a table with four lines per method: our result, the paper's, the difference and the verdict.

    The table shows only the columns for which we have results. If the paper's results are unknown, it shows only ours.
    """
    rows = []
    for name, row in table.rows.items():
        cells = [cell for title, cell in zip(table.columns, row, strict=True) if title in table.matched_columns]
        lines = {escape_latex(name): [cell.our_text_with_seeds for cell in cells]}
        if table.has_published_values:
            lines |= {
                r"\quad paper": [cell.published_text for cell in cells],
                r"\quad difference": [cell.difference_text for cell in cells],
                r"\quad verdict": [cell.verdict_text for cell in cells],
            }
        rows += [[title, *map(escape_latex, texts)] for title, texts in lines.items()]
    source = "The paper’s " if table.title.startswith("Table") else ""
    caption = f"{source}{table.title}. {table.coverage} {_OUR_RESULT}"
    if table.has_published_values:
        verdicts = [cell.verdict for cell in table.matched_cells]
        meanings = [f"“{name}”: {text}" for name, text in explain_verdicts(verdicts).items()]
        caption = " ".join(filter(None, [caption, _THEIR_RESULT, *meanings, describe_chance_differences(verdicts)]))
    if table.supervised_note:
        caption += f" {table.supervised_note}"
    if table.deviations:
        caption += f" Deviations from the published settings: {'; '.join(table.deviations)}."
    label = f"comparison-{table.name.lower().replace(' ', '-')}"
    return _format_table(caption, label, ["", *table.matched_columns], rows)


def _format_table(caption: str, label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a `table` environment, followed by additional ones for the columns that do not fit.

    `caption` and `titles` are plain text, the cells in `rows` are LaTeX, and `label` does not include the prefix
    "tab:".
    """
    lines = []
    starts = range(1, len(titles), _MAX_COLUMNS) or [1]  # a table without result columns is also printed
    for number, start in enumerate(starts, 1):
        part_titles, *part_rows = ([row[0], *row[start : start + _MAX_COLUMNS]] for row in (titles, *rows))
        lines += [
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{escape_latex(caption if number == 1 else 'Continued from the previous table.')}}}",
            rf"\label{{tab:{label if number == 1 else f'{label}-{number}'}}}",
            r"\medskip",
            rf"\begin{{tabular}}{{l{'r' * (len(part_titles) - 1)}}}",
            r"\toprule",
            " & ".join(map(_break_column_title, part_titles)) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in part_rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}" + "\n",
        ]
    return "\n".join(lines)


def _break_column_title(title: str) -> str:
    """Return a column title broken into two lines before its last word."""
    start, space, end = title.rpartition(" ")
    return rf"\shortstack[r]{{{escape_latex(start)}\\{escape_latex(end)}}}" if space else escape_latex(title)
