"""Tests of workflow/check_records.py, which checks the published results."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from rr.workflow.records import with_digest

RUN = "runs/evaluate/cifar10/conv4/simclr-paper/1/cifar10/linear"


def check(*folders: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "workflow/check_records.py", *folders], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.slow
def test_published_results_match_their_records() -> None:
    process = check(*(path for path in (ROOT / "docs/results").iterdir() if path.is_dir()))
    assert process.returncode == 0, process.stderr
    records, files, inputs, accuracies = map(int, re.findall(r"\d+", process.stdout.replace(",", ""))[:4])
    assert records > 360
    assert files > records
    assert inputs > records
    assert accuracies > 70


@pytest.mark.slow
def test_changed_results_are_found(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(ROOT / "docs/results/cifar-conv4", pack)
    record, metrics, predictions = (pack / RUN / name for name in ("run.json", "metrics.json", "predictions.parquet"))
    weights = pack / "runs/pretrain/cifar10/conv4/simclr-paper/1/backbone.safetensors"
    other = pack / RUN.replace("simclr-paper", "relational-paper") / predictions.name
    changes = {
        "metrics.json differs from its hash": lambda: metrics.write_bytes(metrics.read_bytes() + b" "),
        "backbone.safetensors differs from its hash": lambda: weights.write_bytes(weights.read_bytes() + b" "),
        "in predictions": lambda: shutil.copy(other, predictions),
        "run.json": lambda: record.write_text(record.read_text().replace("evaluate", "Evaluate", 1)),
    }
    for message, change in changes.items():
        kept = {path: path.read_bytes() for path in (record, metrics, predictions, weights)}
        change()
        process = check(pack)
        assert process.returncode == 1
        assert message in process.stderr
        for path, content in kept.items():
            path.write_bytes(content)
    assert "no record" in check(tmp_path / "missing").stderr
    assert "usage" in check().stderr
    # A valid record of weights that differ from those that the evaluation has read.
    weights.unlink()
    origin = weights.with_name("run.json")
    changed = json.loads(origin.read_text())
    changed["outputs"] = dict.fromkeys(changed["outputs"], "0" * 64)
    origin.write_text(json.dumps(with_digest(changed)))
    process = check(pack)
    assert process.returncode == 1
    assert f"{record} has read a different" in process.stderr
