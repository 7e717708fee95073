"""tests/engines/engine_overhead.py, whose figures stand in docs/scaling.md: engines that are real, and all stages of a small grid."""

import json
import subprocess
import sys
from typing import Any

import pytest
from engine_calls import ENVIRONMENT
from engine_overhead import timed
from helpers import ROOT

pytestmark = pytest.mark.engine
STAGES = {"fetch": 1, "convert": 1, "pretrain": 2, "evaluate": 2, "report": 1}  # the suite `smoke` with two seeds


def simulate(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/engines/engine_overhead.py", "--suite", "smoke", "--seeds", "2", *arguments], text=True,
        env=ENVIRONMENT, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_snakemake_places_the_trainings_on_as_many_gpus_as_it_is_told() -> None:
    found = simulate("--engine", "snakemake", "--gpus", "1", "--seconds", "2")
    assert found["stage_runs"] == STAGES
    assert found["ideal_of_pretraining"] == 4
    assert found["until_pretrained"] >= 4  # the jobs do wait, and one after the other
    # Of the rest there are two evaluations and the report.
    assert found["seconds_a_job_of_the_rest"] == pytest.approx(found["the_rest"] / 3, abs=1e-3)


def test_dvc_runs_every_stage_and_then_none() -> None:
    found = simulate("--engine", "dvc")
    assert found["stage_runs"] == STAGES
    assert found["seconds_a_stage"] == pytest.approx(found["everything"] / 7, abs=1e-3)
    assert found["nothing_to_do"] < found["everything"]
    assert found["lock_megabytes"] > 0


def test_dvc_takes_over_what_snakemake_has_made() -> None:
    found = simulate("--engine", "both", "--gpus", "2")
    assert found["stage_runs"] == STAGES
    assert found["by_snakemake"] > 0
    assert found["commit"] > 0
    assert found["lock_megabytes"] > 0


def test_an_engine_that_fails_is_no_figure() -> None:
    with pytest.raises(SystemExit, match=r"(?s)ended with 3:.*broken"):
        timed(["sh", "-c", "echo broken >&2; exit 3"])
