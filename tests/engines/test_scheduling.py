"""Test which resources the stages request, and the Slurm profile on a host without Slurm."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT
from helpers import copy_project

pytestmark = pytest.mark.engine
SLURM = ("--profile", "workflow/profiles/slurm")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has not been run."""
    return copy_project(tmp_path_factory.mktemp("project"))


def snakemake(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    process = subprocess.run(
        [str(BIN / "snakemake"), *arguments], cwd=folder, env=ENVIRONMENT | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.returncode == code, process.stdout
    return process.stdout


def requested_resources(output: str) -> dict[str, dict[str, str]]:
    """Return the resources that the first job of each rule requests, parsed from Snakemake's output."""
    resources: dict[str, dict[str, str]] = {}
    rule = ""
    for line in output.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "rule":
            rule = rest.rstrip(":")
        if word == "resources:":
            resources.setdefault(rule, dict(pair.split("=", 1) for pair in rest.split(", ")))
    return resources


def test_retry_requests_more_memory_and_time(project: Path) -> None:
    first, third, ninth = (
        requested_resources(snakemake(project, "-n", "--attempt", number)) for number in ("1", "3", "9")
    )
    for rule in ("fetch", "convert", "pretrain", "extract", "evaluate", "report"):
        assert int(third[rule]["mem_mb"]) == 3 * int(first[rule]["mem_mb"])
        growth = 1 if rule == "pretrain" else 3  # pretraining continues where it was interrupted
        assert int(third[rule]["runtime"]) == growth * int(first[rule]["runtime"])
    assert ninth["pretrain"]["mem_mb"] == third["pretrain"]["mem_mb"]


@pytest.mark.parametrize(("device", "gpu"), [("cuda", "1"), ("cpu", "0"), ("auto", "0")])
def test_device_determines_which_stages_request_a_gpu(project: Path, device: str, gpu: str) -> None:
    path = ENVIRONMENT["PATH"] if device != "auto" else path_without(project, "nvidia-smi")
    for protocol, evaluation_gpu in (("linear", gpu), ("knn", "0")):  # kNN uses only numpy
        output = f"runs/evaluate/shapes/conv4/random/1/shapes/{protocol}/metrics.json"
        resources = requested_resources(snakemake(project, "-n", output, RR_DEVICE=device, PATH=path))
        assert {rule: requests.get("gpu", "0") for rule, requests in resources.items()} == {
            "fetch": "0", "convert": "0", "pretrain": gpu, "extract": gpu, "evaluate": evaluation_gpu,
        }  # fmt: skip


def test_local_jobs_use_the_gpu_one_after_the_other(tmp_path: Path) -> None:
    """Two pretraining jobs request the GPU, and there are enough cores for both."""
    folder = copy_project(tmp_path)
    rules = folder / "workflow/rules/pretrain.smk"
    start = rules.read_text().index('        "{params.rr} pretrain')
    rules.write_text(
        rules.read_text()[:start]
        + '        "mkdir running; sleep 1; rmdir running; for file in {output}; do touch $file; done"\n'
    )
    for name in ("train.beton", "index.parquet"):
        file = folder / "data/beton/shapes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    weights = [f"runs/pretrain/shapes/conv4/{method}/1/backbone.safetensors" for method in ("random", "relational")]
    arguments = (*weights, "--cores", "8", "--allowed-rules", "pretrain")
    for limits in ((), ("--resources", "mem_mb=64000")):  # with a limit for mem_mb, gpu_jobs keeps its default
        snakemake(folder, *arguments, *limits, RR_DEVICE="cuda")
        shutil.rmtree(folder / "runs")
    output = snakemake(folder, *arguments, "--resources", "gpu_jobs=2", RR_DEVICE="cuda", code=1)
    assert "mkdir: cannot create directory" in output  # so this test detects concurrent jobs


def test_pretraining_with_two_gpus_runs_two_processes(tmp_path: Path) -> None:
    """The processes run on the CPU here. Their number is not a parameter, so changing it does not rerun the stage."""
    project = copy_project(tmp_path)
    run = "runs/pretrain/shapes/conv4/relational/1"
    arguments = (f"{run}/backbone.safetensors", "--cores", "2")
    output = snakemake(project, *arguments, "--set-resources", "pretrain:gpu=2", RR_DEVICE="cpu")
    assert "torchrun --standalone --nproc-per-node 2 -m rr pretrain --dataset shapes" in output
    assert json.loads((project / run / "run.json").read_text())["processes"] == 2
    assert "Nothing to be done" in snakemake(project, *arguments, "-n")


def test_slurm_profile_requires_rr_device(project: Path) -> None:
    output = snakemake(project, "-n", *SLURM, code=1)
    assert "environment variables are requested by the workflow but undefined" in output
    assert "RR_DEVICE" in output


def test_slurm_profile_without_slurm_raises(project: Path) -> None:
    output = snakemake(project, *SLURM, code=1, RR_DEVICE="cpu", PATH=path_without(project, "sbatch"))
    assert "sbatch not found on this host: run Snakemake on a login node of the cluster" in output
    assert not (project / "data").exists()


def path_without(folder: Path, program: str) -> str:
    """Return a PATH with a single folder that contains links to all programs except `program`."""
    links = folder / f".without-{program}"
    links.mkdir(exist_ok=True)
    for source in ENVIRONMENT["PATH"].split(":"):
        for file in Path(source).glob("*"):
            if file.name != program and not (links / file.name).is_symlink():
                (links / file.name).symlink_to(file)
    return str(links)
