# From betons to a backbone.


rule pretrain:
    input:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/index.parquet",
        code=stage_code("pretrain"),
    output:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/history.csv",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/views.png",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/run.json",
    params:
        settings=lambda names: grid.parameters(PARAMS, "pretrain", **names),
    log:
        "logs/pretrain/{dataset}/{backbone}/{method}/{seed}.log",
    threads: PARAMS.threads
    shell:
        "rr pretrain --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} > {log} 2>&1"
