"""Measure how much time DVC and Snakemake themselves need for grids that are too large to train on this machine.

    python tests/engines/engine_overhead.py --engine snakemake --suite cifar --gpus 64 --seconds 5
    python tests/engines/engine_overhead.py --engine dvc --suite methods
    python tests/engines/engine_overhead.py --engine both --suite cifar --seeds 4

The files, the rules and the schedulers are real, but a small program replaces `rr`. It writes the outputs of a stage, a
few bytes each. For `pretrain`, it first sleeps for `--seconds`. The measured times are printed as JSON, in seconds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rr.params import Params, load_params
from rr.workflow import grid, stage_runs, suites

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import ROOT, copy_project

FAKE_RR = """#!{python} -S
import sys, time
sys.path.insert(0, {project!r})
from rr import paths
stage, *words = sys.argv[1:]
names = dict(zip((word[2:] for word in words[::2]), words[1::2]))
if stage in ("fetch", "convert"):
    dataset = paths.DatasetPaths(names["dataset"])
    outputs = [dataset.images] if stage == "fetch" else [*dataset.betons.values(), dataset.index]
elif stage == "report":
    outputs = paths.REPORT_FILES
else:
    run = paths.PretrainPaths(names["dataset"], names["backbone"], names["method"], int(names["seed"]))
    outputs = [run.weights, run.last_epoch, run.history, run.views]
    if stage == "extract":
        outputs = [paths.FeaturePaths(run, names["target"]).features]
    elif stage == "evaluate":
        run = paths.EvaluationPaths(run, names["target"], names["protocol"])
        outputs = [run.metrics, run.predictions, run.confusion, run.examples]
    else:
        time.sleep({seconds})
record = paths.record_file(paths.find_record_folder(outputs[0]))
for path in [*outputs, record]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{{}}" if path.suffix == ".json" else " ".join([str(path), *words]) + "\\n")
"""


def prepare_project(folder: Path, suite: str, seeds: int, seconds: float) -> Params:
    """Copy the project to `folder`, select the suite with this number of seeds, and write the fake `rr`.

    A fake `nvidia-smi` makes the Snakefile request GPUs.
    """
    project = copy_project(folder)
    shutil.copy(ROOT / "params.yaml", project / "params.yaml")
    os.chdir(project)
    suites.use_suite(suite, Path("params.yaml"))
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["grid"]["seed"] = list(range(1, seeds + 1))
    yaml.dump(params, Path("params.yaml"))
    for name, text in {
        "rr": FAKE_RR.format(python=sys.executable, project=str(project), seconds=seconds),
        "nvidia-smi": "#!/bin/sh\n",
    }.items():
        program = project / ".bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return load_params(Path("params.yaml"))


def time_command(command: list[str]) -> tuple[float, str]:
    """Run a command that must succeed, and return its duration in seconds and its output."""
    path = os.pathsep.join([str(Path(".bin").absolute()), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path.cwd()), "DVC_NO_ANALYTICS": "1"}
    start = time.monotonic()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    duration = time.monotonic() - start
    if process.returncode:
        output = f"{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
        sys.exit(f"{' '.join(command)} exited with {process.returncode}:\n{output}")
    return duration, process.stdout + process.stderr


def count_runs(params: Params) -> Counter[str]:
    """Count the grid's stage runs by stage."""
    return Counter(run.stage for run in stage_runs.iter_stage_runs(params))


def snakemake_command(params: Params, gpus: int) -> list[str]:
    cores = str(gpus * params.threads)
    return ["snakemake", "--cores", cores, "--resources", f"gpu_jobs={gpus}", "--quiet", "all"]


def measure_snakemake(params: Params, gpus: int, seconds: float) -> dict[str, Any]:
    runs = count_runs(params)
    snakemake = snakemake_command(params, gpus)
    dry_run, _ = time_command([*snakemake, "-n"])
    pretraining, _ = time_command([*snakemake, "--until", "pretrain"])
    dry_run_after_pretraining, _ = time_command([*snakemake, "-n", "--until", "pretrain"])
    remaining_stages, _ = time_command(snakemake)
    nothing_to_do, output = time_command(["snakemake", "-n"])
    assert "Nothing to be done" in output
    lower_bound = -(-runs["pretrain"] // gpus) * seconds
    return {
        "dry_run": dry_run,
        "pretraining": pretraining,
        "pretraining_lower_bound": lower_bound,
        "pretraining_over_lower_bound": pretraining / lower_bound if lower_bound else None,
        "dry_run_after_pretraining": dry_run_after_pretraining,
        "remaining_stages": remaining_stages,
        "per_remaining_job": remaining_stages / (runs["extract"] + runs["evaluate"] + 1),
        "nothing_to_do": nothing_to_do,
    }


def measure_dvc(params: Params) -> dict[str, Any]:
    all_stages, output = time_command(["dvc", "repro"])
    return {
        "stages_that_ran": output.count("Running stage"),
        "all_stages": all_stages,
        "per_stage": all_stages / count_runs(params).total(),
        **measure_dvc_after_grid(params),
    }


def measure_both(params: Params, gpus: int) -> dict[str, Any]:
    """Measure a run with Snakemake, `dvc commit` after it, and DVC with the resulting lock file.

    `dvc commit` replaces `rr sync`, which would reject the empty records of the fake `rr`.
    """
    snakemake, _ = time_command(snakemake_command(params, gpus))
    commit, _ = time_command(["dvc", "commit", "--force"])
    return {"snakemake": snakemake, "dvc_commit": commit, **measure_dvc_after_grid(params)}


def measure_dvc_after_grid(params: Params) -> dict[str, Any]:
    """Measure DVC when its lock file lists the whole grid: with nothing to do, and with one evaluation to run."""
    nothing_to_do, output = time_command(["dvc", "repro"])
    assert "up to date" in output
    status, _ = time_command(["dvc", "status"])
    evaluation = next(iter(grid.evaluations(params)))
    run = evaluation.pretraining
    names = (run.dataset, run.backbone, run.method, str(run.seed), evaluation.target, evaluation.protocol)
    # Without --force, DVC would restore the outputs from its cache.
    command = ["dvc", "repro", "--force", "--single-item", f"evaluate@{'-'.join(names)}"]
    one_evaluation, output = time_command(command)
    assert output.count("Running stage") == 1
    return {
        "nothing_to_do": nothing_to_do,
        "status": status,
        "one_evaluation": one_evaluation,
        "lock_megabytes": Path("dvc.lock").stat().st_size / 1e6,
    }


def main() -> None:
    """Run the measurements from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=["snakemake", "dvc", "both"], required=True)
    parser.add_argument("--suite", default="cifar")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--gpus", type=int, default=64, help="number of pretraining runs at a time")
    parser.add_argument("--seconds", type=float, default=0.0, help="duration of each pretraining run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params = prepare_project(Path(folder), arguments.suite, arguments.seeds, arguments.seconds)
        if arguments.engine == "dvc":
            results = measure_dvc(params)
        elif arguments.engine == "snakemake":
            results = measure_snakemake(params, arguments.gpus, arguments.seconds)
        else:
            results = measure_both(params, arguments.gpus)
        rounded = {name: value if value is None else round(value, 3) for name, value in results.items()}
        print(json.dumps({**vars(arguments), "stage_runs": dict(count_runs(params)), **rounded}, indent=1))
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
