"""The stages on a real Slurm: what stops a training there costs nothing, and the files are those of this machine alone.

    make test-cluster

Slurm's two nodes are this machine. As root, because slurmd runs jobs in their users' names.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ROOT, copy_project

pytestmark = pytest.mark.cluster
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}",
    "RR_DEVICE": "cpu",
}
SLURM = str(ROOT / "tests/cluster/slurm.sh")
SMOKE = ("--configfile", "workflow/suites/smoke.yaml")
# A cluster's controller is asked every 40 seconds; this one has nothing else to do.
PROFILE = (
    "--profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "1",
    "--seconds-between-status-checks", "1",
)  # fmt: skip
CELL = "shapes/conv4/relational-smoke/1"
WEIGHTS = f"runs/pretrain/{CELL}/backbone.safetensors"
SECONDS = 1800  # far more than anything here takes: on a busy machine a test is slow, and not wrong


class Job(NamedTuple):
    """A job as squeue tells of it; a node is named while it runs."""

    number: str
    state: str
    node: str
    restarts: int


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Slurm that runs."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SLURM, "start", folder], check=True, timeout=SECONDS)
    try:
        yield folder
    finally:
        subprocess.run([SLURM, "stop", folder], check=True, timeout=SECONDS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the suite has run on this machine, undisturbed."""
    folder = project(tmp_path_factory.mktemp("alone"))
    assert finished(snakemake(folder, "--cores", "2", *SMOKE)) == 0, said(folder)
    return folder


@pytest.fixture
def converted(alone: Path, tmp_path: Path) -> Path:
    """A project in which the pictures are ready, and nothing is trained."""
    folder = tmp_path / "project"
    shutil.copytree(alone, folder, symlinks=True)
    for name in ("runs", "report", "logs"):
        shutil.rmtree(folder / name)
    return folder


def project(folder: Path) -> Path:
    copy_project(folder)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    with open(folder / "snakemake.txt", "w") as output:
        return subprocess.Popen(
            [str(BIN / "snakemake"), *arguments], cwd=folder, env=ENVIRONMENT | environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def said(folder: Path) -> str:
    return (folder / "snakemake.txt").read_text()


def finished(process: subprocess.Popen) -> int:
    try:
        return process.wait(SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, folder: Path) -> None:
    """Until `condition` holds, which must be before the process ends."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, said(folder)
        assert time.monotonic() < end, said(folder)
        time.sleep(0.05)


def trainings(folder: Path) -> list[Job]:
    """The jobs that pretrain in `folder`, in the order in which they came."""
    form = "%i|%T|%N|%k|%Z|"
    lines = call("squeue", "--states=all", "--noheader", f"--format={form}").splitlines()
    rows = [line.split("|") for line in lines]
    found = [(number, state, node) for number, state, node, comment, work, _ in rows
             if comment.startswith("rule_pretrain") and work == str(folder)]  # fmt: skip
    return [Job(*job, restarts(job[0])) for job in sorted(found, key=lambda job: int(job[0]))]


def restarts(number: str) -> int:
    return int(call("scontrol", "show", "job", number).split("Restarts=")[1].split()[0])


def elapsed(job: Job) -> int:
    """For how many seconds a job runs or has run."""
    shown = call("scontrol", "show", "job", job.number).split("RunTime=")[1].split()[0]
    hours, minutes, seconds = shown.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def call(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=SECONDS).stdout


def log(folder: Path) -> str:
    """What the try at hand has said; nothing yet where Snakemake has just taken the words of the try before away."""
    try:
        return (folder / f"logs/pretrain/{CELL}.log").read_text()
    except FileNotFoundError:
        return ""


def resume(folder: Path) -> Path:
    return folder / f"runs/resume/{CELL}/resume.pt"


def artefacts(folder: Path) -> dict[str, bytes]:
    """Every file of the stages but the records, which hold times, and the report, which shows them."""
    files = (path for top in ("data", "runs") for path in (folder / top).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "run.json"}


def continued(folder: Path) -> tuple[int, int]:
    """The epoch and step in which the last try has gone on."""
    words = log(folder).split("continuing in epoch ")[1].split()
    return int(words[0]), int(words[3])


def test_a_suite_whose_training_is_cancelled_ends_with_the_same_bytes(slurm: Path, alone: Path, tmp_path: Path) -> None:
    """All stages as jobs. scancel sends SIGTERM: the state is saved, and Snakemake's next try goes on from it."""
    folder = project(tmp_path)
    process = snakemake(folder, *PROFILE, *SMOKE)
    wait_for(resume(folder).exists, process, folder)
    [job] = trainings(folder)
    call("scancel", job.number)
    assert finished(process) == 0, said(folder)
    assert [(job.state, job.restarts) for job in trainings(folder)] == [("CANCELLED", 0), ("COMPLETED", 0)]
    epoch, step = continued(folder)
    assert epoch == 2
    assert step > 0  # the state of the signal, and not that of the epoch's end before it
    assert artefacts(folder) == artefacts(alone)
    assert (folder / "report/index.html").exists()
    verified = subprocess.run(
        [str(BIN / "rr"), "verify", "--params", ".rr/suites/smoke.yaml"], cwd=folder, env=ENVIRONMENT, text=True,
        capture_output=True,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


def test_a_training_goes_on_when_its_node_is_lost(slurm: Path, alone: Path, converted: Path) -> None:
    """The node's processes are killed at once, as by a power cut. Slurm queues the job again, by the same number."""
    process = snakemake(converted, WEIGHTS, *PROFILE, *SMOKE)
    wait_for(resume(converted).exists, process, converted)
    [job] = trainings(converted)
    crash(slurm, job)
    call("scontrol", "update", f"nodename={job.node}", "state=down", "reason=test")
    try:
        assert finished(process) == 0, said(converted)
    finally:
        subprocess.run([SLURM, "node", slurm, job.node], check=True, timeout=SECONDS)
    [again] = trainings(converted)
    assert (again.number, again.state, again.restarts) == (job.number, "COMPLETED", 1)
    assert again.node != job.node
    assert "continuing in epoch" in log(converted)
    same(converted, alone)


def test_a_training_by_two_processes_goes_on(slurm: Path, converted: Path) -> None:
    """torchrun in a job of two GPUs, which are no GPUs, so on the CPU. scancel: both end, and both go on."""
    process = snakemake(converted, WEIGHTS, *PROFILE, *SMOKE, "--set-resources", "pretrain:gpu=2")
    wait_for(resume(converted).exists, process, converted)
    [job] = trainings(converted)
    assert "--nproc-per-node 2" in said(converted)
    assert "gpu:2" in call("scontrol", "show", "job", "-d", job.number)
    call("scancel", job.number)
    assert finished(process) == 0, said(converted)
    assert [job.state for job in trainings(converted)] == ["CANCELLED", "COMPLETED"]
    epoch, step = continued(converted)
    assert epoch == 2
    assert step > 0
    record = json.loads((converted / f"runs/pretrain/{CELL}/run.json").read_text())
    assert record["processes"] == 2


def test_a_training_that_has_to_make_room_goes_on(slurm: Path, alone: Path, converted: Path) -> None:
    """A job of a partition with priority takes both nodes. The state is saved within the time of grace."""
    process = snakemake(converted, WEIGHTS, *PROFILE, *SMOKE)
    wait_for(resume(converted).exists, process, converted)
    call("srun", "--partition=urgent", "--nodes=2", "--exclusive", "true")
    assert finished(process) == 0, said(converted)
    # It has ended by itself, so it is Snakemake that submits it again, and not Slurm.
    assert [job.state for job in trainings(converted)] == ["FAILED", "COMPLETED"]
    assert "rr: terminated: run the same command again to continue" in said(converted)
    epoch, step = continued(converted)
    assert epoch == 2
    assert step > 0
    same(converted, alone)


def test_a_training_is_saved_ahead_of_its_time_limit(slurm: Path, converted: Path) -> None:
    """The limit is drawn near when the training runs, because nobody knows when it will. The next try goes on."""
    text = (converted / "workflow/suites/smoke.yaml").read_text()
    (converted / "long.yaml").write_text(text.replace("epochs: 2", "epochs: 100000"))
    process = snakemake(converted, WEIGHTS, *PROFILE, "--configfile", "long.yaml")
    try:
        wait_for(resume(converted).exists, process, converted)
        [job] = trainings(converted)
        minutes = elapsed(job) // 60 + 3  # of which the last two begin with the signal
        call("scontrol", "update", f"jobid={job.number}", f"timelimit={minutes}")
        wait_for(lambda: len(trainings(converted)) == 2, process, converted)
        assert trainings(converted)[0].state == "FAILED"
        assert elapsed(job) < 60 * minutes
        assert "rr: stopped ahead of a limit: run the same command again to continue" in said(converted)
        wait_for(lambda: "continuing in epoch" in log(converted), process, converted)
        assert continued(converted)[1] > 0
    finally:
        os.killpg(process.pid, signal.SIGINT)  # which cancels the job
        finished(process)
    assert trainings(converted)[1].state == "CANCELLED"


@pytest.mark.parametrize(
    ("codes", "state", "restarts"),
    [
        ("0", "COMPLETED", 0),
        ("138 0", "COMPLETED", 1),
        ("138 2", "FAILED", 1),
        ("2", "FAILED", 0),
        ("137", "FAILED", 0),
    ],
)
def test_a_job_of_ones_own_is_queued_again_where_its_state_is_saved(
    slurm: Path, tmp_path: Path, codes: str, state: str, restarts: int
) -> None:
    """With a program that ends with one code after the other in place of `rr`."""
    (tmp_path / "codes").write_text("\n".join(codes.split()) + "\n")
    program = tmp_path / "bin/rr"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" >> words\nread code < codes\nsed -i 1d codes\nexit $code\n')
    program.chmod(0o755)
    words = ["--dataset", "a", "--seed", "1"]
    number = subprocess.run(
        ["sbatch", "--parsable", "--mem=100", ROOT / "workflow/pretrain.sbatch", *words], check=True, cwd=tmp_path,
        env=ENVIRONMENT | {"PATH": f"{program.parent}:{os.environ['PATH']}"}, text=True, stdout=subprocess.PIPE,
    ).stdout.strip()  # fmt: skip
    end = time.monotonic() + SECONDS
    while (now := call("squeue", "--states=all", "--noheader", "--format=%T", "--job", number).strip()) != state:
        assert now in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"), now
        assert time.monotonic() < end
        time.sleep(0.2)
    shown = call("scontrol", "show", "job", number)
    assert f"Restarts={restarts} " in shown
    assert f"ExitCode={codes.split()[-1]}:0" in shown
    assert (tmp_path / "words").read_text().splitlines() == ["pretrain " + " ".join(words)] * len(codes.split())


def test_each_job_has_a_gpu_of_its_own_and_none_takes_turns(slurm: Path, converted: Path) -> None:
    """The default profile's one GPU is this machine's alone. Both jobs fit one node, so their GPUs must differ."""
    text = (converted / "workflow/suites/smoke.yaml").read_text()
    (converted / "two.yaml").write_text(text.replace("seed: [1]", "seed: [1, 2]"))
    seen = "echo gpu=$CUDA_VISIBLE_DEVICES job=$SLURM_JOB_ID > {log}; sleep 600"
    rules = converted / "workflow/rules/pretrain.smk"
    start = rules.read_text().index('        "{params.rr} pretrain')
    rules.write_text(f'{rules.read_text()[:start]}        "{seen}"\n')
    weights = [WEIGHTS, WEIGHTS.replace("/1/", "/2/")]
    small = ("--set-threads", "pretrain=1", "--set-resources", "pretrain:mem_mb=100")
    process = snakemake(converted, *weights, *PROFILE, "--configfile", "two.yaml", *small, RR_DEVICE="cuda")
    try:
        wait_for(lambda: [job.state for job in trainings(converted)] == ["RUNNING"] * 2, process, converted)
        logs = [converted / f"logs/pretrain/shapes/conv4/relational-smoke/{seed}.log" for seed in (1, 2)]
        wait_for(lambda: all(file.exists() and file.read_text() for file in logs), process, converted)
        given = []
        for file in logs:
            gpu, job = (word.split("=")[1] for word in file.read_text().split())
            shown = call("scontrol", "show", "job", "-d", job)
            assert f"GRES=gpu:1(IDX:{gpu})" in shown
            given.append((shown.split(" NodeList=")[1].split()[0], gpu))
        assert given[0] != given[1]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        finished(process)


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        (["--default-resources", "slurm_partition=nowhere"], "cpu", "invalid partition specified: nowhere"),
        (["--set-resources", "pretrain:gpu=3"], "cuda", "Requested node configuration is not available"),
        (["--set-resources", "pretrain:gpu=1"], "cuda", "rr: --device cuda: torch sees no GPU here"),
    ],
    ids=["partition", "more GPUs than a node has", "a GPU that torch does not see"],
)
def test_what_the_cluster_has_not(
    slurm: Path, converted: Path, arguments: list[str], device: str, message: str
) -> None:
    process = snakemake(converted, WEIGHTS, *PROFILE, "--retries", "0", *SMOKE, *arguments, RR_DEVICE=device)
    assert finished(process) == 1
    assert message in said(converted)
    assert not list((converted / "runs").rglob("*.safetensors"))


def crash(slurm: Path, job: Job) -> None:
    """Kill the slurmd of a job's node, the job's steps and all below them, none of which may notice."""
    lost = {int((slurm / f"{job.node}.pid").read_text())}
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(f"slurmstepd: [{job.number}.".encode()):
                lost.add(int(entry.name))
    while more := {child for child, parent in parents.items() if parent in lost} - lost:
        lost |= more
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in lost:
            os.kill(process, number)


def same(folder: Path, alone: Path) -> None:
    """Whether the training's files are those of the undisturbed one."""
    expected = artefacts(alone)
    for name, content in artefacts(folder).items():
        assert content == expected[name], name
    assert (folder / WEIGHTS).is_file()
    assert not resume(folder).exists()
