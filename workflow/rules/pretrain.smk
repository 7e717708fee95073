# From betons to a backbone.


rule pretrain:
    input:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/index.parquet",
        code=stage_code("pretrain"),
    output:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "runs/history/{dataset}/{backbone}/{method}/{seed}.csv",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/views.png",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/run.json",
    log:
        "logs/pretrain/{dataset}/{backbone}/{method}/{seed}.log",
    threads: PARAMS.threads
    params:
        settings=lambda names: grid.parameters(PARAMS, "pretrain", **names),
    shell:
        "rr pretrain --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} > {log} 2>&1"
