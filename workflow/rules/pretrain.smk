# The `pretrain` stage trains a backbone on a beton.


rule pretrain:
    input:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/index.parquet",
        code=code_files("pretrain"),
        extension=lambda names: stage_runs.stage_extension_module_files(PARAMS, "pretrain", **names),
    output:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/last_epoch.safetensors",
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
        # Request at most three times the first attempt's memory, because a long run may be restarted many times.
        mem_mb=lambda names, attempt: 8000 * min(attempt, 3),
        runtime=24 * 60,
        gpu=GPU,
        gpu_jobs=GPU,
        nodes=1,  # otherwise Slurm may allocate GPUs on several nodes
        # Slurm sends SIGUSR1 two minutes before the time limit; see the Snakefile.
        slurm_extra="--signal=USR1@120",
    params:
        settings=lambda names: stage_runs.stage_params(PARAMS, "pretrain", **names),
        # Run one process per GPU. This value depends on resources, so Snakemake does not rerun a job if it changes.
        rr=lambda names, resources: (
            f"torchrun --standalone --nproc-per-node {resources.gpu} -m rr" if resources.gpu > 1 else "rr"
        ),
    shell:
        "{params.rr} pretrain --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} > {log} 2>&1"
