# The stage pretrain: from betons to a backbone.


rule pretrain:
    input:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/index.parquet",
        code=code_files("pretrain"),
    output:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "runs/history/{dataset}/{backbone}/{method}/{seed}.csv",
        report(
            "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/views.png",
            caption="../report/views.rst",
            category="Views",
            labels={"dataset": "{dataset}", "method": "{method}", "backbone": "{backbone}", "seed": "{seed}"},
        ),
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/run.json",
    log:
        "logs/pretrain/{dataset}/{backbone}/{method}/{seed}.log",
    benchmark:
        "logs/benchmark/pretrain/{dataset}/{backbone}/{method}/{seed}.tsv"
    threads: PARAMS.threads
    resources:
        # Memory is limited to three times the first request, because a long training may be restarted many times.
        mem_mb=lambda names, attempt: 8000 * min(attempt, 3),
        runtime=24 * 60,
        gpu=GPU,
        gpu_jobs=GPU,
        nodes=1,  # otherwise Slurm may allocate GPUs of several nodes
        # Sends SIGUSR1 two minutes before the time limit, and on preemption; see the Snakefile.
        slurm_extra="--signal=USR1@120",
    params:
        settings=lambda names: grid.stage_params(PARAMS, "pretrain", **names),
        # One process per GPU. Snakemake does not rerun a job if this changes, because it depends on resources.
        rr=lambda names, resources: (
            f"torchrun --standalone --nproc-per-node {resources.gpu} -m rr" if resources.gpu > 1 else "rr"
        ),
    shell:
        "{params.rr} pretrain --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} > {log} 2>&1"
