# The stages for Snakemake: the same commands, inputs and outputs as in dvc.yaml (a test holds the two together).
#
#   snakemake --cores 8          run everything that is missing or out of date
#   snakemake -n                 see what would run, and why
from pathlib import Path

from snakemake.utils import min_version

from rr import grid, paths
from rr.params import load
from rr.provenance import stage_code

min_version("9.18")  # since then a file that came back from a cache with another date is compared by its bytes


configfile: "params.yaml"


# One image holds FFCV's system libraries and the project; used with `--sdm apptainer`, ignored without.
container: "docker://relational-reasoning"


PARAMS = load(Path("params.yaml"))


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
