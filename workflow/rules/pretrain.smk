# From betons to a backbone.


rule pretrain:
    input:
        "data/beton/{dataset}/train.beton",
        "data/beton/{dataset}/index.parquet",
        code=stage_code("pretrain"),
    output:
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/backbone.safetensors",
        "runs/history/{dataset}/{backbone}/{method}/{seed}.csv",
        report(
            "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/views.png",
            caption="../report/views.rst",
            category="Views",
            labels={"data set": "{dataset}", "method": "{method}", "backbone": "{backbone}", "seed": "{seed}"},
        ),
        "runs/pretrain/{dataset}/{backbone}/{method}/{seed}/run.json",
    log:
        "logs/pretrain/{dataset}/{backbone}/{method}/{seed}.log",
    benchmark:
        "logs/benchmark/pretrain/{dataset}/{backbone}/{method}/{seed}.tsv"
    threads: PARAMS.threads
    resources:
        # Not without end: a long training may need many tries, each of which goes on from the one before.
        mem_mb=lambda names, attempt: 8000 * min(attempt, 3),
        runtime=24 * 60,
        gpu=GPU,
        gpu_jobs=GPU,
        nodes=1,  # or Slurm may take the GPUs of one job from several
        # Two minutes ahead of the time limit, and when the job has to make room for another: see Snakefile.
        slurm_extra="--signal=USR1@120",
    params:
        settings=lambda names: grid.parameters(PARAMS, "pretrain", **names),
        # Several GPUs, as many processes: no other result, so what is derived from resources is no reason to run again.
        rr=lambda names, resources: (
            f"torchrun --standalone --nproc-per-node {resources.gpu} -m rr" if resources.gpu > 1 else "rr"
        ),
    shell:
        "{params.rr} pretrain --dataset {wildcards.dataset} --backbone {wildcards.backbone} --method {wildcards.method} "
        "--seed {wildcards.seed} > {log} 2>&1"
