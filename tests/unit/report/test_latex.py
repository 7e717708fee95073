"""Test the LaTeX tables."""

import re

from report_files import check_latex

from rr.params import Params
from rr.paths import REPORT_FILES
from rr.report.latex import _format_table, escape_latex
from rr.report.stage import write_report


def test_latex_is_balanced_and_escaped(params: Params) -> None:
    write_report(params)
    text = REPORT_FILES[3].read_text(encoding="utf-8")
    assert r"relational & \textbf{61.50 $\pm$ 2.12} & \textbf{50.00 $\pm$ 0.00} & -- \\" in text
    assert r"random (lower bound) & 41.00 $\pm$ 1.41 & 30.00 $\pm$ 0.00 & -- \\" in text
    check_latex(text)
    assert escape_latex(r"a_b & 5% of {x} \ ~ ^ $ #") == (
        r"a\_b \& 5\% of \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \$ \#"
    )


def test_wide_table_is_split() -> None:
    titles = ["Method", *(f"ResNet-32: set-{column}" for column in range(9))]
    rows = [[f"m{row}", *(rf"{row}{column}.00 $\pm$ 0.10 (3)" for column in range(9))] for row in range(3)]
    text = _format_table("Nine columns.", "nine", titles, rows)
    check_latex(text)
    assert re.findall(r"label\{(.*?)\}", text) == ["tab:nine", "tab:nine-2", "tab:nine-3"]
    lines = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.startswith("m1 ")]
    assert [line[0] for line in lines] == ["m1"] * 3
    assert [cell for line in lines for cell in line[1:]] == rows[1][1:]
    assert text.count(r"\shortstack[r]{ResNet-32:\\set-") == 9
