# The `fetch` and `convert` stages make betons from a dataset's source. They have priority over all other stages,
# because `rr` uses the fetched datasets to check the whole grid, if possible before any training starts. (A job whose
# inputs are ready does not wait for a slow fetch of another dataset.)


rule fetch:
    input:
        code=code_files("fetch"),
        extension=lambda names: stage_runs.stage_extension_module_files(PARAMS, "fetch", **names),
    output:
        "data/raw/{dataset}/images.parquet",
        "data/raw/{dataset}/run.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "logs/benchmark/fetch/{dataset}.tsv"
    priority: 1
    threads: PARAMS.threads
    resources:
        mem_mb=lambda names, attempt: 4000 * attempt,
        runtime=lambda names, attempt: 12 * 60 * attempt,
    params:
        settings=lambda names: stage_runs.stage_params(PARAMS, "fetch", **names),
    shell:
        "rr fetch --dataset {wildcards.dataset} > {log} 2>&1"


rule convert:
    input:
        "data/raw/{dataset}/images.parquet",
        code=code_files("convert"),
    output:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/test.beton",
        "data/beton/{dataset}/index.parquet",
        "data/beton/{dataset}/run.json",
    log:
        "logs/convert/{dataset}.log",
    benchmark:
        "logs/benchmark/convert/{dataset}.tsv"
    priority: 1
    threads: PARAMS.threads
    resources:
        mem_mb=lambda names, attempt: 4000 * attempt,
        runtime=lambda names, attempt: 2 * 60 * attempt,
    params:
        settings=lambda names: stage_runs.stage_params(PARAMS, "convert", **names),
    shell:
        "rr convert --dataset {wildcards.dataset} > {log} 2>&1"
