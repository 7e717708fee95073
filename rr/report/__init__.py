"""Stage `report`: one page that shows what the grid's runs found, and the file behind every figure.

    collect    reads the files of the grid into typed values
    tables     accuracies, mean and standard deviation over seeds
    finding    what the tables say, in a sentence that holds no more than they do
    figures    curves and accuracies as inline SVG
    runs       what ran where and how long, and with which settings
    results    the metrics as Parquet
    page       puts it all into page.html and page.md

Importing this package is cheap: the Snakefile asks it for inputs and outputs.
"""

from pathlib import Path

from rr import paths
from rr.grid import evaluations, pretrainings
from rr.params import Params

PAGE, MARKDOWN, RESULTS = paths.REPORT / "index.html", paths.REPORT / "report.md", paths.REPORT / "results.parquet"


def inputs(params: Params) -> list[Path]:
    """Every file that the report of this grid is made from."""
    found: list[Path] = []
    for run in pretrainings(params):
        found += [run.history, run.views, paths.run_record(run.folder)]
    for score in evaluations(params):
        found += [score.metrics, paths.run_record(score.folder)]
    return found


def outputs() -> list[Path]:
    """What the stage writes; the page comes first."""
    return [PAGE, MARKDOWN, RESULTS]


def report(params: Params) -> None:
    """Read the files of the grid and write `outputs()`; equal files give equal bytes.

    Raises UserError for a file that is missing or damaged, and for runs made with different settings.
    """
    from rr.atomic import write_text
    from rr.report import page, results
    from rr.report.collect import collect

    grid = collect(params)
    html, markdown = page.render(grid)
    results.write(grid.scores, RESULTS)
    write_text(MARKDOWN, markdown)
    write_text(PAGE, html)
