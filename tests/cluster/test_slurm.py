"""Run the stages on a real Slurm cluster and interrupt training in every way that Slurm can.

    make test-cluster

An interrupted training run must continue, and its files must be identical to the files of a run without Slurm. Both
nodes of the cluster run on this machine. The tests need root, because slurmd starts each job as the user who submitted
it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import engine_calls
import pytest
from engine_calls import BIN
from helpers import ROOT, copy_project

pytestmark = pytest.mark.cluster
ENVIRONMENT = engine_calls.ENVIRONMENT | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}",
    "RR_DEVICE": "cpu",
}
SLURM = str(ROOT / "tests/cluster/slurm.sh")
SMOKE_SUITE = ("--configfile", "workflow/suites/smoke.yaml")
# By default, the plugin polls a cluster every 40 seconds. This cluster can be polled more often.
PROFILE = (
    "--profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "1",
    "--seconds-between-status-checks", "1",
)  # fmt: skip
RUN = "shapes/conv4/relational-smoke/1"
WEIGHTS = f"runs/pretrain/{RUN}/backbone.safetensors"
TIMEOUT = 1800  # seconds; far more than any step needs, so that tests do not fail on a busy machine


class Job(NamedTuple):
    """A job as listed by squeue; `node` is empty unless the job is running."""

    id: str
    state: str
    node: str
    restarts: int


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a Slurm cluster and return its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SLURM, "start", folder], check=True, timeout=TIMEOUT)
    try:
        yield folder
    finally:
        subprocess.run([SLURM, "stop", folder], check=True, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def reference_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which the suite has run without Slurm and without interruption."""
    folder = make_project(tmp_path_factory.mktemp("reference"))
    assert wait(start_snakemake(folder, "--cores", "2", *SMOKE_SUITE)) == 0, snakemake_output(folder)
    return folder


@pytest.fixture
def converted_project(reference_project: Path, tmp_path: Path) -> Path:
    """Return a project whose dataset is converted and in which nothing is trained."""
    folder = tmp_path / "project"
    shutil.copytree(reference_project, folder, symlinks=True)
    for name in ("runs", "report", "logs"):
        shutil.rmtree(folder / name)
    return folder


def make_project(folder: Path) -> Path:
    """Copy the project to `folder`, with the full params.yaml."""
    copy_project(folder)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


def start_snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start Snakemake in `folder`, in its own process group."""
    with open(folder / "snakemake.txt", "w") as output:
        return subprocess.Popen(
            [str(BIN / "snakemake"), *arguments], cwd=folder, env=ENVIRONMENT | environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def snakemake_output(folder: Path) -> str:
    """Return what Snakemake printed."""
    return (folder / "snakemake.txt").read_text()


def wait(process: subprocess.Popen) -> int:
    """Wait for the process and return its exit code. Kill its process group after a timeout."""
    try:
        return process.wait(TIMEOUT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, folder: Path) -> None:
    """Wait until `condition` is true. Fail if the process ends first."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, snakemake_output(folder)
        assert time.monotonic() < end, snakemake_output(folder)
        time.sleep(0.05)


def list_pretrain_jobs(folder: Path) -> list[Job]:
    """Return the jobs that pretrain in `folder`, oldest first."""
    form = "%i|%T|%N|%k|%Z|"
    lines = call("squeue", "--states=all", "--noheader", f"--format={form}").splitlines()
    rows = [line.split("|") for line in lines]
    jobs = [(id, state, node) for id, state, node, comment, work_dir, _ in rows
            if comment.startswith("rule_pretrain") and work_dir == str(folder)]  # fmt: skip
    return [Job(*job, count_restarts(job[0])) for job in sorted(jobs, key=lambda job: int(job[0]))]


def count_restarts(job_id: str) -> int:
    """Return how many times Slurm has requeued a job."""
    return int(call("scontrol", "show", "job", job_id).split("Restarts=")[1].split()[0])


def elapsed_seconds(job: Job) -> int:
    """Return how long a job has been running."""
    run_time = call("scontrol", "show", "job", job.id).split("RunTime=")[1].split()[0]
    hours, minutes, seconds = run_time.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


def call(*command: str) -> str:
    """Run a command that must succeed, and return its output."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=TIMEOUT).stdout


def read_log(folder: Path) -> str:
    """Return the current attempt's log; empty if Snakemake has just deleted the previous attempt's log."""
    try:
        return (folder / f"logs/pretrain/{RUN}.log").read_text()
    except FileNotFoundError:
        return ""


def checkpoint_path(folder: Path) -> Path:
    """Return the path of the checkpoint."""
    return folder / f"runs/resume/{RUN}/resume.pt"


def read_artifacts(folder: Path) -> dict[str, bytes]:
    """Return all stage outputs except the records, which contain times, and the report, which shows these times."""
    files = (path for top in ("data", "runs") for path in (folder / top).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != "run.json" and "resume" not in path.parts
    }


def resume_position(folder: Path) -> tuple[int, int]:
    """Return the epoch and the step at which the last attempt continued."""
    words = read_log(folder).split("continuing in epoch ")[1].split()
    return int(words[0]), int(words[3])


def test_canceled_training_continues_to_same_bytes(slurm: Path, reference_project: Path, tmp_path: Path) -> None:
    """Run all stages as jobs. scancel sends SIGTERM: the state is saved, and the next attempt continues."""
    folder = make_project(tmp_path)
    process = start_snakemake(folder, *PROFILE, *SMOKE_SUITE)
    wait_for(checkpoint_path(folder).exists, process, folder)
    [job] = list_pretrain_jobs(folder)
    call("scancel", job.id)
    assert wait(process) == 0, snakemake_output(folder)
    assert [(job.state, job.restarts) for job in list_pretrain_jobs(folder)] == [("CANCELLED", 0), ("COMPLETED", 0)]
    epoch, step = resume_position(folder)
    assert epoch == 2
    assert step > 0  # the checkpoint written after the signal, not the one written at the end of the first epoch
    assert read_artifacts(folder) == read_artifacts(reference_project)
    assert (folder / "report/index.html").exists()
    verify = subprocess.run(
        [str(BIN / "rr"), "verify", "--params", ".rr/suites/smoke.yaml"], cwd=folder, env=ENVIRONMENT, text=True,
        capture_output=True,
    )  # fmt: skip
    assert verify.returncode == 0, verify.stderr


def test_training_continues_after_node_failure(slurm: Path, reference_project: Path, converted_project: Path) -> None:
    """Kill all of the node's processes at once, as a power failure would. Slurm requeues the job with the same id."""
    process = start_snakemake(converted_project, WEIGHTS, *PROFILE, *SMOKE_SUITE)
    wait_for(checkpoint_path(converted_project).exists, process, converted_project)
    [job] = list_pretrain_jobs(converted_project)
    kill_node(slurm, job)
    call("scontrol", "update", f"nodename={job.node}", "state=down", "reason=test")
    try:
        assert wait(process) == 0, snakemake_output(converted_project)
    finally:
        subprocess.run([SLURM, "node", slurm, job.node], check=True, timeout=TIMEOUT)
    [requeued] = list_pretrain_jobs(converted_project)
    assert (requeued.id, requeued.state, requeued.restarts) == (job.id, "COMPLETED", 1)
    assert requeued.node != job.node
    assert "continuing in epoch" in read_log(converted_project)
    assert_same_artifacts(converted_project, reference_project)


def test_distributed_training_continues(slurm: Path, converted_project: Path) -> None:
    """Cancel torchrun in a job with two simulated GPUs: both CPU processes stop, and both continue later."""
    process = start_snakemake(
        converted_project, WEIGHTS, *PROFILE, *SMOKE_SUITE, "--set-resources", "pretrain:gpu=2"
    )  # fmt: skip
    wait_for(checkpoint_path(converted_project).exists, process, converted_project)
    [job] = list_pretrain_jobs(converted_project)
    assert "--nproc-per-node 2" in snakemake_output(converted_project)
    assert "gpu:2" in call("scontrol", "show", "job", "-d", job.id)
    call("scancel", job.id)
    assert wait(process) == 0, snakemake_output(converted_project)
    assert [job.state for job in list_pretrain_jobs(converted_project)] == ["CANCELLED", "COMPLETED"]
    epoch, step = resume_position(converted_project)
    assert epoch == 2
    assert step > 0
    record = json.loads((converted_project / f"runs/pretrain/{RUN}/run.json").read_text())
    assert record["processes"] == 2


def test_preempted_training_continues(slurm: Path, reference_project: Path, converted_project: Path) -> None:
    """Let a job in a higher-priority partition take both nodes. The state is saved within the grace period."""
    process = start_snakemake(converted_project, WEIGHTS, *PROFILE, *SMOKE_SUITE)
    wait_for(checkpoint_path(converted_project).exists, process, converted_project)
    call("srun", "--partition=urgent", "--nodes=2", "--exclusive", "true")
    assert wait(process) == 0, snakemake_output(converted_project)
    # The job ended by itself, so Snakemake, not Slurm, submitted it again.
    assert [job.state for job in list_pretrain_jobs(converted_project)] == ["FAILED", "COMPLETED"]
    assert "rr: terminated: run the same command again to continue" in snakemake_output(converted_project)
    epoch, step = resume_position(converted_project)
    assert epoch == 2
    assert step > 0
    assert_same_artifacts(converted_project, reference_project)


def test_training_is_saved_before_time_limit(slurm: Path, converted_project: Path) -> None:
    """Shorten the time limit of the running job, because its start cannot be predicted. The next attempt continues."""
    text = (converted_project / "workflow/suites/smoke.yaml").read_text()
    (converted_project / "long.yaml").write_text(text.replace("epochs: 2", "epochs: 100000"))
    process = start_snakemake(converted_project, WEIGHTS, *PROFILE, "--configfile", "long.yaml")
    try:
        wait_for(checkpoint_path(converted_project).exists, process, converted_project)
        [job] = list_pretrain_jobs(converted_project)
        minutes = elapsed_seconds(job) // 60 + 3  # the signal is sent two minutes before the limit
        call("scontrol", "update", f"jobid={job.id}", f"timelimit={minutes}")
        wait_for(lambda: len(list_pretrain_jobs(converted_project)) == 2, process, converted_project)
        assert list_pretrain_jobs(converted_project)[0].state == "FAILED"
        assert elapsed_seconds(job) < 60 * minutes
        assert "rr: stopped before a time limit: run the same command again to continue" in snakemake_output(
            converted_project
        )
        wait_for(lambda: "continuing in epoch" in read_log(converted_project), process, converted_project)
        assert resume_position(converted_project)[1] > 0
    finally:
        os.killpg(process.pid, signal.SIGINT)  # makes Snakemake cancel the job
        wait(process)
    assert list_pretrain_jobs(converted_project)[1].state == "CANCELLED"


@pytest.mark.parametrize(
    ("exit_codes", "state", "restarts"),
    [
        ("0", "COMPLETED", 0),
        ("138 0", "COMPLETED", 1),
        ("138 2", "FAILED", 1),
        ("2", "FAILED", 0),
        ("137", "FAILED", 0),
    ],
)
def test_sbatch_script_requeues_only_after_saved_checkpoint(
    slurm: Path, tmp_path: Path, exit_codes: str, state: str, restarts: int
) -> None:
    """Replace `rr` with a program that exits with one code after another."""
    (tmp_path / "codes").write_text("\n".join(exit_codes.split()) + "\n")
    program = tmp_path / "bin/rr"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" >> calls\nread code < codes\nsed -i 1d codes\nexit $code\n')
    program.chmod(0o755)
    arguments = ["--dataset", "a", "--seed", "1"]
    job_id = subprocess.run(
        ["sbatch", "--parsable", "--mem=100", ROOT / "workflow/pretrain.sbatch", *arguments], check=True, cwd=tmp_path,
        env=ENVIRONMENT | {"PATH": f"{program.parent}:{os.environ['PATH']}"}, text=True, stdout=subprocess.PIPE,
    ).stdout.strip()  # fmt: skip
    end = time.monotonic() + TIMEOUT
    while (now := call("squeue", "--states=all", "--noheader", "--format=%T", "--job", job_id).strip()) != state:
        assert now in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"), now
        assert time.monotonic() < end
        time.sleep(0.2)
    job_info = call("scontrol", "show", "job", job_id)
    assert f"Restarts={restarts} " in job_info
    assert "CPUs/Task=2 " in job_info
    assert f"ExitCode={exit_codes.split()[-1]}:0" in job_info
    expected_calls = ["pretrain " + " ".join(arguments)] * len(exit_codes.split())
    assert (tmp_path / "calls").read_text().splitlines() == expected_calls


def test_concurrent_jobs_get_different_gpus(slurm: Path, converted_project: Path) -> None:
    """By default, only local GPU jobs are limited to one. Both jobs fit on one node, so they need different GPUs."""
    text = (converted_project / "workflow/suites/smoke.yaml").read_text()
    (converted_project / "two.yaml").write_text(text.replace("seed: [1]", "seed: [1, 2]"))
    command = "echo gpu=$CUDA_VISIBLE_DEVICES job=$SLURM_JOB_ID > {log}; sleep 600"
    rules = converted_project / "workflow/rules/pretrain.smk"
    start = rules.read_text().index('        "{params.rr} pretrain')
    rules.write_text(f'{rules.read_text()[:start]}        "{command}"\n')
    weights = [WEIGHTS, WEIGHTS.replace("/1/", "/2/")]
    small = ("--set-threads", "pretrain=1", "--set-resources", "pretrain:mem_mb=100")
    process = start_snakemake(
        converted_project, *weights, *PROFILE, "--configfile", "two.yaml", *small, RR_DEVICE="cuda"
    )  # fmt: skip
    try:
        wait_for(
            lambda: [job.state for job in list_pretrain_jobs(converted_project)] == ["RUNNING"] * 2,
            process, converted_project,
        )  # fmt: skip
        logs = [converted_project / f"logs/pretrain/shapes/conv4/relational-smoke/{seed}.log" for seed in (1, 2)]
        wait_for(lambda: all(file.exists() and file.read_text() for file in logs), process, converted_project)
        assigned = []
        for file in logs:
            gpu, job_id = (word.split("=")[1] for word in file.read_text().split())
            job_info = call("scontrol", "show", "job", "-d", job_id)
            assert f"GRES=gpu:1(IDX:{gpu})" in job_info
            assigned.append((job_info.split(" NodeList=")[1].split()[0], gpu))
        assert assigned[0] != assigned[1]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        wait(process)


@pytest.mark.parametrize(
    ("arguments", "device", "message"),
    [
        (["--default-resources", "slurm_partition=nowhere"], "cpu", "invalid partition specified: nowhere"),
        (["--set-resources", "pretrain:gpu=3"], "cuda", "Requested node configuration is not available"),
        (["--set-resources", "pretrain:gpu=1"], "cuda", "rr: --device cuda: torch found no GPU on this machine"),
    ],
    ids=["unknown partition", "more GPUs than a node has", "GPU that torch does not see"],
)
def test_unavailable_resource_fails_with_message(
    slurm: Path, converted_project: Path, arguments: list[str], device: str, message: str
) -> None:
    process = start_snakemake(
        converted_project, WEIGHTS, *PROFILE, "--retries", "0", *SMOKE_SUITE, *arguments, RR_DEVICE=device
    )  # fmt: skip
    assert wait(process) == 1
    assert message in snakemake_output(converted_project)
    assert not list((converted_project / "runs").rglob("*.safetensors"))


def kill_node(slurm: Path, job: Job) -> None:
    """Kill the node's slurmd, the job's steps and all their descendants before any of them can react."""
    victims = {int((slurm / f"{job.node}.pid").read_text())}
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(f"slurmstepd: [{job.id}.".encode()):
                victims.add(int(entry.name))
    while children := {child for child, parent in parents.items() if parent in victims} - victims:
        victims |= children
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in victims:
            os.kill(process, number)


def assert_same_artifacts(folder: Path, reference: Path) -> None:
    """Check that all training files are identical to the reference project's files, and that no checkpoint is left."""
    expected = read_artifacts(reference)
    for name, content in read_artifacts(folder).items():
        assert content == expected[name], name
    assert (folder / WEIGHTS).is_file()
    assert not checkpoint_path(folder).exists()
