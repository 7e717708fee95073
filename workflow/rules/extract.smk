# The `extract` stage computes the features of a target dataset with a backbone, once for all protocols.


rule extract:
    input:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "data/beton/{target}/train.beton",
        "data/beton/{target}/test.beton",
        "data/beton/{target}/index.parquet",
        code=code_files("extract"),
        extension=lambda names: stage_runs.stage_extension_module_files(PARAMS, "extract", **names),
    output:
        "runs/features/{dataset}/{backbone}/{method}/{seed}/{target}/features.safetensors",
        "runs/features/{dataset}/{backbone}/{method}/{seed}/{target}/run.json",
    log:
        "logs/extract/{dataset}/{backbone}/{method}/{seed}/{target}.log",
    benchmark:
        "logs/benchmark/extract/{dataset}/{backbone}/{method}/{seed}/{target}.tsv"
    threads: PARAMS.threads
    resources:
        mem_mb=lambda names, attempt: 8000 * attempt,
        runtime=lambda names, attempt: 2 * 60 * attempt,
        gpu=GPU,
        gpu_jobs=GPU,
    params:
        settings=lambda names: stage_runs.stage_params(PARAMS, "extract", **names),
    shell:
        "rr extract --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} --target {wildcards.target} > {log} 2>&1"
