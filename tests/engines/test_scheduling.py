"""What the stages ask a scheduler for, and the profile for Slurm where there is none."""

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
    return copy_project(tmp_path_factory.mktemp("project"))


def snakemake(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [str(BIN / "snakemake"), *arguments], cwd=folder, env=ENVIRONMENT | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def asked(output: str) -> dict[str, dict[str, str]]:
    """What the first job of each rule asks for."""
    found: dict[str, dict[str, str]] = {}
    rule = ""
    for line in output.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "rule":
            rule = rest.rstrip(":")
        if word == "resources:":
            found.setdefault(rule, dict(pair.split("=", 1) for pair in rest.split(", ")))
    return found


def test_a_further_try_has_more_memory_and_more_time_unless_it_goes_on(project: Path) -> None:
    first, third = (asked(snakemake(project, "-n", "--attempt", number)) for number in ("1", "3"))
    for rule in ("fetch", "convert", "pretrain", "evaluate", "report"):
        assert int(third[rule]["mem_mb"]) == 3 * int(first[rule]["mem_mb"])
        growth = 1 if rule == "pretrain" else 3
        assert int(third[rule]["runtime"]) == growth * int(first[rule]["runtime"])
    assert asked(snakemake(project, "-n", "--attempt", "9"))["pretrain"]["mem_mb"] == third["pretrain"]["mem_mb"]


@pytest.mark.parametrize(("device", "gpu"), [("cuda", "1"), ("cpu", "0"), ("auto", "0")])
def test_the_device_decides_who_asks_for_a_gpu(project: Path, device: str, gpu: str) -> None:
    path = ENVIRONMENT["PATH"] if device != "auto" else without(project, "nvidia-smi")
    found = asked(snakemake(project, "-n", RR_DEVICE=device, PATH=path))
    assert {rule: names.get("gpu", "0") for rule, names in found.items() if rule != "all"} == {
        "fetch": "0", "convert": "0", "pretrain": gpu, "evaluate": gpu, "report": "0",
    }  # fmt: skip


def test_one_gpu_is_what_jobs_here_take_turns_on(tmp_path: Path) -> None:
    """Two trainings that ask for it, and more cores than both need."""
    folder = copy_project(tmp_path)
    rules = folder / "workflow/rules/pretrain.smk"
    start = rules.read_text().index('        "{params.rr} pretrain')
    rules.write_text(
        rules.read_text()[:start]
        + '        "mkdir running; sleep 1; rmdir running; for file in {output}; do touch $file; done"\n'
    )
    for name in ("train.beton", "index.parquet"):
        place = folder / "data/beton/shapes" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    weights = [f"runs/pretrain/shapes/conv4/{method}/1/backbone.safetensors" for method in ("random", "relational")]
    here = (*weights, "--cores", "8", "--allowed-rules", "pretrain")
    snakemake(folder, *here, RR_DEVICE="cuda")
    shutil.rmtree(folder / "runs")
    output = snakemake(folder, *here, "--resources", "gpu_jobs=2", RR_DEVICE="cuda", code=1)
    assert "mkdir: cannot create directory" in output  # so the test above could have failed


def test_a_training_that_asks_for_two_gpus_has_two_processes(tmp_path: Path) -> None:
    """On this machine's CPU. How many they are is no parameter, so asking for one again trains nothing."""
    project = copy_project(tmp_path)
    training = "runs/pretrain/shapes/conv4/relational/1"
    ask = (f"{training}/backbone.safetensors", "--cores", "2")
    output = snakemake(project, *ask, "--set-resources", "pretrain:gpu=2", RR_DEVICE="cpu")
    assert "torchrun --standalone --nproc-per-node 2 -m rr pretrain --dataset shapes" in output
    assert json.loads((project / training / "run.json").read_text())["processes"] == 2
    assert "Nothing to be done" in snakemake(project, *ask, "-n")


def test_the_profile_for_slurm_wants_to_know_the_device(project: Path) -> None:
    output = snakemake(project, "-n", *SLURM, code=1)
    assert "environment variables are requested by the workflow but undefined" in output
    assert "RR_DEVICE" in output


def test_no_slurm_on_this_host(project: Path) -> None:
    output = snakemake(project, *SLURM, code=1, RR_DEVICE="cpu", PATH=without(project, "sbatch"))
    assert "no Slurm on this host (no sbatch): run it where jobs are submitted" in output
    assert not (project / "data").exists()


def without(folder: Path, program: str) -> str:
    """A PATH on which everything is but `program`."""
    place = folder / f".without-{program}"
    place.mkdir(exist_ok=True)
    for source in ENVIRONMENT["PATH"].split(":"):
        for file in Path(source).glob("*"):
            if file.name != program and not (place / file.name).is_symlink():
                (place / file.name).symlink_to(file)
    return str(place)
