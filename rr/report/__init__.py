"""The `report` stage: one page with the results of all runs in the grid, also as Markdown, Parquet and LaTeX.

The stage reads the runs' files (`inputs`), builds the sections of the page (`sections`, one module each) and
renders them (`page`, `latex`):

    stage            the entry point, write_report; it also writes all metrics as one Parquet table
    inputs           the runs' files as typed values
    result_tables    tables of results with mean and standard deviation over seeds
    paper            the paper's results (paper.csv), our corresponding results, and the verdict on each pair
    plots            inline SVG plots and embedded images
    sections         functions that turn the results into what the templates render
    templates        HTML, CSS and JavaScript of the page, and its Markdown version
    page             the page and its Markdown version
    latex            LaTeX tables for a publication
    jinja            the settings of the template engine, also used by the gallery

`rr.workflow.stage_runs` lists the input and output files of the stage.
"""
