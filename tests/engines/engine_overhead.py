"""How much time the engines themselves take, on grids far larger than this machine could train.

    python tests/engines/engine_overhead.py --engine snakemake --suite cifar --gpus 64 --seconds 5
    python tests/engines/engine_overhead.py --engine dvc --suite methods
    python tests/engines/engine_overhead.py --engine both --suite cifar --seeds 4

The files, the rules and the schedulers are the real ones; in the place of `rr` stands a program that writes a stage's
outputs, of a few bytes, and in `pretrain` waits for `--seconds` first. Prints JSON.
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

from helpers import ROOT, copy_project
from ruamel.yaml import YAML

from rr.params import Params, load
from rr.workflow import grid, suites

STAND_IN = """#!{python} -S
import sys, time
sys.path.insert(0, {project!r})
from rr import paths
stage, *words = sys.argv[1:]
names = dict(zip((word[2:] for word in words[::2]), words[1::2]))
if stage in ("fetch", "convert"):
    data = paths.Dataset(names["dataset"])
    outputs = [data.images] if stage == "fetch" else [*data.betons.values(), data.index]
elif stage == "report":
    outputs = paths.REPORT_FILES
else:
    run = paths.Pretraining(names["dataset"], names["backbone"], names["method"], int(names["seed"]))
    outputs = [run.weights, run.history, run.views]
    if stage == "evaluate":
        score = paths.Evaluation(run, names["target"], names["protocol"])
        outputs = [score.metrics, score.predictions, score.confusion, score.examples]
    else:
        time.sleep({seconds})
record = paths.run_record(paths.recorded_in(outputs[0]))
for path in [*outputs, record]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{{}}" if path.suffix == ".json" else " ".join([str(path), *words]) + "\\n")
"""


def prepare(folder: Path, suite: str, seeds: int, seconds: float) -> Params:
    """A copy of the project with the suite's grid, `rr` replaced, and a driver's name that makes jobs ask for a GPU."""
    project = copy_project(folder)
    shutil.copy(ROOT / "params.yaml", project / "params.yaml")
    os.chdir(project)
    suites.use(suite, Path("params.yaml"))
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["grid"]["seed"] = list(range(1, seeds + 1))
    yaml.dump(params, Path("params.yaml"))
    for name, text in {
        "rr": STAND_IN.format(python=sys.executable, project=str(project), seconds=seconds),
        "nvidia-smi": "#!/bin/sh\n",
    }.items():
        program = project / ".bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return load(Path("params.yaml"))


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of a command that must succeed, and what it printed."""
    path = os.pathsep.join([str(Path(".bin").absolute()), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path.cwd()), "DVC_NO_ANALYTICS": "1"}
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    spent = time.monotonic() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return spent, done.stdout + done.stderr


def count(params: Params) -> Counter[str]:
    """Stage runs of the grid."""
    data = len(grid.data(params))
    runs, scores = len(list(grid.pretrainings(params))), len(list(grid.evaluations(params)))
    return Counter(fetch=data, convert=data, pretrain=runs, evaluate=scores, report=1)


def run_snakemake(params: Params, gpus: int, seconds: float) -> dict[str, Any]:
    jobs = count(params)
    cores = str(gpus * params.threads)
    snakemake = ["snakemake", "--cores", cores, "--resources", f"gpu_jobs={gpus}", "--quiet", "all"]
    dry, _ = timed([*snakemake, "-n"])
    spent, _ = timed([*snakemake, "--until", "pretrain"])
    again, _ = timed([*snakemake, "-n", "--until", "pretrain"])
    rest, _ = timed(snakemake)
    nothing, text = timed(["snakemake", "-n"])
    assert "Nothing to be done" in text
    ideal = -(-jobs["pretrain"] // gpus) * seconds
    return {
        "dry_run": dry,
        "until_pretrained": spent,
        "ideal_of_pretraining": ideal,
        "until_pretrained_over_ideal": spent / ideal if ideal else None,
        "nothing_to_pretrain": again,
        "the_rest": rest,
        "seconds_a_job_of_the_rest": rest / (jobs["evaluate"] + 1),
        "nothing_to_do": nothing,
    }


def run_dvc(params: Params) -> dict[str, Any]:
    spent, _ = timed(["dvc", "repro"])
    return {"everything": spent, "seconds_a_stage": spent / count(params).total(), **known_to_dvc(params)}


def run_both(params: Params, gpus: int) -> dict[str, Any]:
    """What `rr sync --from snakemake` does after its check of the records, of which these stages write none."""
    cores = str(gpus * params.threads)
    spent, _ = timed(["snakemake", "--cores", cores, "--resources", f"gpu_jobs={gpus}", "--quiet", "all"])
    commit, _ = timed(["dvc", "commit", "--force"])
    return {"by_snakemake": spent, "commit": commit, **known_to_dvc(params)}


def known_to_dvc(params: Params) -> dict[str, Any]:
    """A grid that DVC has in its lock: with nothing to do, and with one evaluation to run."""
    nothing, text = timed(["dvc", "repro"])
    assert "up to date" in text
    status, _ = timed(["dvc", "status"])
    score = next(iter(grid.evaluations(params)))
    run = score.pretraining
    names = (run.dataset, run.backbone, run.method, str(run.seed), score.target, score.protocol)
    # Forced, or DVC would take the outputs out of its cache.
    one, text = timed(["dvc", "repro", "--force", "--single-item", f"evaluate@{'-'.join(names)}"])
    assert text.count("Running stage") == 1
    return {
        "nothing_to_do": nothing,
        "status": status,
        "one_evaluation": one,
        "lock_megabytes": Path("dvc.lock").stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=["snakemake", "dvc", "both"], required=True)
    parser.add_argument("--suite", default="cifar")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.0, help="of each pretraining")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params = prepare(Path(folder), given.suite, given.seeds, given.seconds)
        if given.engine == "dvc":
            found = run_dvc(params)
        elif given.engine == "snakemake":
            found = run_snakemake(params, given.gpus, given.seconds)
        else:
            found = run_both(params, given.gpus)
        rounded = {name: value if value is None else round(value, 3) for name, value in found.items()}
        print(json.dumps({**vars(given), "stage_runs": dict(count(params)), **rounded}, indent=1))
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
