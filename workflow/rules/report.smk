# The `report` stage writes a page with all results.

REPORT = stage_runs.make_report_run(PARAMS)


rule report:
    input:
        REPORT.inputs,
        code=code_files("report"),
    output:
        report(str(REPORT.outputs[0]), caption="../report/page.rst", category="Report"),
        [str(path) for path in REPORT.outputs[1:]],
        "report/run.json",
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmark/report.tsv"
    resources:
        mem_mb=lambda names, attempt: 4000 * attempt,
        runtime=lambda names, attempt: 60 * attempt,
    params:
        settings=REPORT.params,
    shell:
        "rr report > {log} 2>&1"
