# The `evaluate` stage computes the metrics of a backbone on a target dataset.


rule evaluate:
    input:
        "runs/features/{dataset}/{backbone}/{method}/{seed}/{target}/features.safetensors",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "data/beton/{target}/train.beton",
        "data/beton/{target}/test.beton",
        "data/beton/{target}/index.parquet",
        code=code_files("evaluate"),
        extension=lambda names: stage_runs.stage_extension_module_files(PARAMS, "evaluate", **names),
    output:
        "runs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}/metrics.json",
        "runs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}/predictions.parquet",
        "runs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}/confusion.csv",
        report(
            "runs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}/examples.png",
            caption="../report/examples.rst",
            category="Examples",
            subcategory="{protocol}",
            labels={
                "dataset": "{dataset} → {target}",
                "method": "{method}",
                "backbone": "{backbone}",
                "seed": "{seed}",
            },
        ),
        "runs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}/run.json",
    log:
        "logs/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}.log",
    benchmark:
        "logs/benchmark/evaluate/{dataset}/{backbone}/{method}/{seed}/{target}/{protocol}.tsv"
    threads: PARAMS.threads
    resources:
        mem_mb=lambda names, attempt: 8000 * attempt,
        runtime=lambda names, attempt: 4 * 60 * attempt,
        # Protocols that use only numpy run on the CPU.
        gpu=lambda names: 0 if PARAMS.protocols[names.protocol].kind in NUMPY_PROTOCOLS else GPU,
        gpu_jobs=lambda names: 0 if PARAMS.protocols[names.protocol].kind in NUMPY_PROTOCOLS else GPU,
    params:
        settings=lambda names: stage_runs.stage_params(PARAMS, "evaluate", **names),
    shell:
        "rr evaluate --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} --target {wildcards.target} --protocol {wildcards.protocol} > {log} 2>&1"
