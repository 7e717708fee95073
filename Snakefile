# The stages for Snakemake: the same commands, inputs and outputs as in dvc.yaml (a test compares the two).
#
#   snakemake --cores 8          run what is missing or out of date
#   snakemake -n                 show what would run, and why
#   snakemake --cores 8 --configfile workflow/suites/cifar.yaml workflow/suites/views.yaml    run suites
import os
import shlex
import shutil
import signal
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from rr import paths
from rr.errors import UserError
from rr.params import NUMPY_PROTOCOLS, load_params
from rr.workflow import stage_runs, suites
from rr.workflow.records import code_files
from rr.workflow.snakemake_patch import patch_snakemake

min_version("9.19")  # the first version that reads profile.yaml and compares touched files by checksum
patch_snakemake()


# This image is built from workflow/Dockerfile and is used only with `--sdm apptainer`.
container: "docker-daemon://relational-reasoning:latest"


# --configfile names one or more suites. The stages then read a file in which the suites are merged into params.yaml.
# Snakemake reads YAML with PyYAML, in which 1e-5 is a string and 010 is 8 (YAML 1.1), so `rr` reads the files again.
try:
    SUITES = suites.read_suite_files(workflow.overwrite_configfiles)
    PARAMS_FILE = suites.merge_suites(SUITES, Path("params.yaml")) if SUITES else Path("params.yaml")
    PARAMS = load_params(PARAMS_FILE)
except UserError as error:
    raise WorkflowError(str(error)) from None

if workflow.config_settings.config:
    raise WorkflowError(
        "--config is not supported: set parameters in params.yaml, or name suites, such as workflow/suites/cifar.yaml, "
        "with --configfile"
    )

# The first command is Snakemake's default prefix. Without RR_ENGINE, `rr` would register every run with DVC.
shell.prefix(f"set -euo pipefail; export RR_ENGINE=snakemake RR_PARAMS={shlex.quote(str(PARAMS_FILE))}; ")


# `gpu` is the number of GPUs that a job requests from a cluster. `gpu_jobs` limits the number of jobs that use this
# machine's GPUs at the same time. By default, one such job is allowed; --resources gpu_jobs=4, for example, allows
# four. A single resource would not be enough, because Snakemake would also reduce the requests of cluster jobs to that
# limit. Without a GPU, both are 0. RR_DEVICE takes precedence over this machine's GPUs, because a cluster may have
# different ones.
DEVICE = os.environ.get("RR_DEVICE") or "auto"
GPU = int(DEVICE.startswith("cuda") or (DEVICE == "auto" and bool(shutil.which("nvidia-smi"))))


resource_scopes:
    gpu_jobs="local",


# This is not in the default profile, because --resources and other profiles replace a profile's whole list.
if GPU:
    workflow.global_resources.setdefault("gpu_jobs", 1)


# Before a job's time limit, Slurm sends SIGUSR1 to every process of the job. `rr` then saves a checkpoint and exits.
# The Snakemake process of the job must ignore the signal. Otherwise, the signal would end this process, and `rr` would
# be killed. Child processes inherit this setting, but `rr` installs its own handler.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


onstart:
    if workflow.executor_plugin.name == "slurm" and not shutil.which("sbatch"):
        raise WorkflowError(
            "sbatch not found on this host: run Snakemake on a login node of the cluster, or without --profile"
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
include: "workflow/rules/extract.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "report/index.html",
