"""Stage `report`: read the results of all runs of the grid and write the files of the report."""

from rr import paths
from rr.params import Params
from rr.report.inputs.collect import collect_results
from rr.report.latex import render_latex
from rr.report.page import build_sections, render_html, render_markdown
from rr.report.parquet import write_parquet
from rr.runtime.atomic import write_text


def write_report(params: Params) -> None:
    """Write the page, its Markdown version, the metrics as Parquet and the tables as LaTeX.

    The same input files always give byte-identical outputs. If an input is invalid, nothing is written.

    Raises:
        UserError: if a file of the runs is missing or damaged, or if the runs are inconsistent in their settings or
            classes.
    """
    html_path, markdown_path, parquet_path, latex_path = paths.REPORT_FILES
    results = collect_results(params)
    sections = build_sections(results)
    html, markdown = render_html(sections), render_markdown(sections)
    latex = render_latex(sections["accuracies"], sections["comparison"])
    write_parquet(results.evaluations, parquet_path)
    write_text(latex_path, latex)
    write_text(markdown_path, markdown)
    write_text(html_path, html)
