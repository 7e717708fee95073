"""Stage `report`: one page that shows what the grid's runs found, and the file behind every figure.

    collect    the files of the grid as typed values; files and predictions read them
    tables     figures with mean and standard deviation over seeds
    finding    what the tables say, in a sentence that holds no more than they do
    paper      the paper's own figures (paper.csv), and how far each can be trusted
    answers    which of the grid's cells answers which of them; budget says in what its settings differ
    welch      whether two means agree
    printed    both in the paper's tables; headlines has the abstract's averages, studies the curves
    beside     these as one section
    drawing    how a picture becomes inline SVG; with it, lines, figures and confusion draw
    classes    the audit: worst and best class, confusions, calibration
    retrieval  the nearest pictures, in figures and in pictures
    space      figures and maps of the space of representations
    dynamics   what a backbone becomes, epoch by epoch
    efficiency accuracy against pairs, views and seconds
    sheets     pictures of stages that the page holds itself
    runs       what ran where and how long, and with which settings; versions, with which code
    results    the metrics as Parquet
    latex      the tables for a paper of one's own
    page       puts it all into page.html and page.md

Its inputs and outputs stand in `rr.workflow.grid`.
"""

from rr import paths
from rr.params import Params
from rr.report import page, results
from rr.report.inputs.collect import collect
from rr.runtime.atomic import write_text


def report(params: Params) -> None:
    """Read the files of the grid and write those of the report; equal files give equal bytes.

    Raises UserError for a file that is missing or damaged, and for runs made with different settings.
    """
    where_page, where_markdown, where_results, where_latex = paths.REPORT_FILES
    grid = collect(params)
    html, markdown, tex = page.render(grid)
    results.write(grid.scores, where_results)
    write_text(where_latex, tex)
    write_text(where_markdown, markdown)
    write_text(where_page, html)
