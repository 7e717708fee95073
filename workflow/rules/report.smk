# From everything to one page.
from rr.report import inputs, outputs


rule report:
    input:
        inputs(PARAMS),
        code=stage_code("report"),
    output:
        [str(path) for path in outputs()],
        "report/run.json",
    params:
        settings=grid.parameters(PARAMS, "report"),
    log:
        "logs/report.log",
    shell:
        "rr report > {log} 2>&1"
