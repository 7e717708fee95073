"""Tests of `rr verify --recompute`: which run is rerun, and how closely its results must match."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import PRETRAIN, RunRr, write_params

from rr import commands
from rr.params import load_params
from rr.workflow import recompute
from rr.workflow.records import load_record

RUN = "runs/pretrain/shapes/conv4/relational/1"


def test_grid_without_a_trained_method_has_no_epoch_to_repeat(project: Path, rr: RunRr) -> None:
    write_params(project, lambda params: params["grid"].update(method=["random"]))
    outcome = rr("verify", "--recompute", "--allow-missing")
    assert outcome.code == 2
    assert "--recompute: no method in the grid is trained, so there is no epoch to rerun: add a trained" in outcome.err


def test_recompute_without_the_start_of_the_last_epoch_raises(project_copy: Path, rr: RunRr) -> None:
    assert rr(*PRETRAIN).code == 0
    Path(RUN, "last_epoch.safetensors").unlink()
    outcome = rr("verify", "--recompute", "--allow-missing")
    assert outcome.code == 2
    assert "--recompute: for each training run in the grid, an output or the images are missing" in outcome.err


def test_result_must_be_exact_on_the_same_device_and_machine(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rr(*PRETRAIN).code == 0
    params, record = load_params(Path("params.yaml")), load_record(Path(RUN))
    is_same, message = commands._recompute_random_run(params, "cpu")
    assert is_same
    assert message.endswith("are the same, bit for bit")
    recorded = {"epoch": "3", "loss": "0.5", "accuracy": "0.7"}
    close = recompute.RecomputedEpoch(recorded, recorded | {"loss": "0.505"}, equal_weights=False)
    monkeypatch.setattr(recompute, "recompute_last_epoch", lambda *_, **__: close)

    def repeat(**changes: Any) -> tuple[bool, str]:
        """Return the result for a record in which the values of some keys have been changed."""
        changed = copy.deepcopy(record) | changes
        monkeypatch.setattr(commands, "load_record", lambda folder: changed)
        return commands._recompute_random_run(params, "cpu")

    machine = record["machine"]
    versions = machine["versions"]
    session = {key: record[key] for key in ("device", "processes", "machine")}
    for changes in (
        {},
        {"machine": machine | {"versions": {"numpy": versions["numpy"]}}},  # of an earlier version of rr
        {"machine": machine | {"versions": versions | {"dvc": "1.0"}}},  # cannot affect a result
        {"earlier_sessions": [session]},
    ):
        is_same, message = repeat(**changes)
        assert not is_same
        expected = f"epoch 3 of {RUN} gives a different result .*: loss is 0.505 instead of .* delete {RUN} and run dvc"
        assert re.search(expected, message)
    outcome = rr("verify", "--recompute", "--json", "--allow-missing")
    assert (outcome.code, outcome.err) == (2, f"rr: {message}\n")
    assert json.loads(outcome.out)["recomputed"] == message
    for changes in (
        {"device": "cpu (99 cores)"},
        {"processes": 2},
        {"machine": machine | {"processor": "another one"}},
        {"machine": machine | {"versions": versions | {"numpy": "1.0"}}},
        {"earlier_sessions": [session | {"device": "a GPU"}]},
        {"earlier_sessions": [session | {"machine": machine | {"processor": "another one"}}, session]},
    ):
        is_same, message = repeat(**changes)
        assert is_same
        assert "are the same within the tolerance" in message
    # On a GPU, the order of some sums is not deterministic, even if the machine is the same.
    monkeypatch.setattr(recompute, "device_name", lambda name: record["device"])
    monkeypatch.setattr(commands, "load_record", lambda folder: record)
    assert "are the same within the tolerance" in commands._recompute_random_run(params, "cuda:0")[1]
