# From everything to one page.

REPORT = grid.report(PARAMS)


rule report:
    input:
        REPORT.inputs,
        code=stage_code("report"),
    output:
        [str(path) for path in REPORT.outputs],
        "report/run.json",
    log:
        "logs/report.log",
    params:
        settings=REPORT.params,
    shell:
        "rr report > {log} 2>&1"
