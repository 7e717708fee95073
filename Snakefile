# The stages for Snakemake: the same commands, inputs and outputs as in dvc.yaml (a test holds the two together).
#
#   snakemake --cores 8          run everything that is missing or out of date
#   snakemake -n                 see what would run, and why
#   snakemake --cores 8 --configfile workflow/suites/cifar.yaml workflow/suites/views.yaml
import os
import shlex
import shutil
import signal
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from rr import paths
from rr.errors import UserError
from rr.params import load
from rr.workflow import grid, suites
from rr.workflow.records import stage_code

min_version("9.19")  # the oldest that compares files of another date by their bytes, and reads profile.yaml


configfile: "params.yaml"


# What workflow/Dockerfile builds; used with `--sdm apptainer`, ignored without.
container: "docker-daemon://relational-reasoning:latest"


# Suites come by --configfile, several at once; the stages then read a file in which params.yaml is joined with them.
SUITES = config.pop("suites", {})
try:
    FILE = suites.overlay(SUITES, Path("params.yaml")) if SUITES else Path("params.yaml")
    PARAMS = load(FILE)
except UserError as error:
    raise WorkflowError(str(error)) from None

# By the parser that Snakemake itself reads it with: YAML 1.1 takes 1e-5 for text.
if config != yaml.safe_load(Path("params.yaml").read_text()):
    raise WorkflowError("the stages read params.yaml: change it there; --configfile is for files of workflow/suites")

if SUITES:
    shell.prefix(f"export RR_PARAMS={shlex.quote(str(FILE))}; ")


# The GPUs that a job asks a cluster for (gpu), and whether it takes its turn on those of this machine (gpu_jobs, of which
# the default profile has one): --resources gpu_jobs=4 where more fit. They are two resources, because Snakemake cuts down
# what a job asks for to such a limit, wherever it runs. Without a GPU jobs ask for none, and cores decide. RR_DEVICE
# decides before what this machine has, because a cluster's GPUs are elsewhere; who takes turns there, the cluster says.
DEVICE = os.environ.get("RR_DEVICE", "auto")
GPU = int(DEVICE.startswith("cuda") or (DEVICE == "auto" and bool(shutil.which("nvidia-smi"))))


resource_scopes:
    gpu_jobs="local",


# Ahead of a time limit Slurm sends SIGUSR1 to every process of a job's step: to `rr`, which saves its state and ends, but
# also to the Snakemake around it, which would die of it and take `rr` along. Whatever it starts inherits this; `rr` does not.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


onstart:
    if workflow.executor_plugin.name == "slurm" and not shutil.which("sbatch"):
        raise WorkflowError(
            "no Slurm on this host (no sbatch): run it where jobs are submitted, or without --profile"
        )


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    backbone="[A-Za-z0-9_-]+",
    method="[A-Za-z0-9_-]+",
    seed="[0-9]+",
    target="[A-Za-z0-9_-]+",
    protocol="[A-Za-z0-9_-]+",


include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "report/index.html",
