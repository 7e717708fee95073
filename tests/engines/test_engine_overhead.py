"""Tests for engine_overhead.py, whose results are in docs/scaling.md: both engines run all stages of a small grid."""

import json
import subprocess
import sys
from typing import Any

import pytest
from engine_calls import ENVIRONMENT
from engine_overhead import time_command
from helpers import ROOT

pytestmark = pytest.mark.engine
STAGE_RUNS = {
    "fetch": 1,
    "convert": 1,
    "pretrain": 2,
    "extract": 2,
    "evaluate": 2,
    "report": 1,
}  # the `smoke` suite with two seeds


def measure(*arguments: str) -> dict[str, Any]:
    """Run engine_overhead.py on a small grid and return its results."""
    script = ROOT / "tests/engines/engine_overhead.py"
    process = subprocess.run(
        [sys.executable, script, "--suite", "smoke", "--seeds", "2", *arguments], text=True, env=ENVIRONMENT,
        capture_output=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_snakemake_runs_one_pretraining_per_gpu_at_a_time() -> None:
    results = measure("--engine", "snakemake", "--gpus", "1", "--seconds", "2")
    assert results["stage_runs"] == STAGE_RUNS
    assert results["pretraining_lower_bound"] == 4
    assert results["pretraining"] >= 4  # the two jobs sleep one after the other


def test_dvc_runs_every_stage_once() -> None:
    results = measure("--engine", "dvc")
    assert results["stage_runs"] == STAGE_RUNS
    assert results["stages_that_ran"] == sum(STAGE_RUNS.values())
    assert results["lock_megabytes"] > 0


def test_dvc_commits_the_outputs_of_snakemake() -> None:
    results = measure("--engine", "both", "--gpus", "2")
    assert results["stage_runs"] == STAGE_RUNS
    assert results["snakemake"] > 0
    assert results["dvc_commit"] > 0
    assert results["lock_megabytes"] > 0


def test_failed_command_raises() -> None:
    with pytest.raises(SystemExit, match=r"(?s)exited with 3:.*broken"):
        time_command(["sh", "-c", "echo broken >&2; exit 3"])
