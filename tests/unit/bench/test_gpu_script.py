"""Small CPU runs of `workflow/gpu.sh`, which benchmarks a GPU and runs the paper's Conv-4 experiment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, write_params

from rr import params
from rr.bench.parts import gpu


def test_parameters_match_the_paper() -> None:
    gpu_params = params.load_params(ROOT / "workflow/gpu.yaml")
    default_params = params.load_params(ROOT / "params.yaml")
    method = gpu_params.methods["relational-paper"]
    assert isinstance(method, params.RelationalConfig)
    assert (method.views, method.batch_size, method.epochs, method.gamma) == (32, 64, 200, 2.0)
    assert gpu_params.datasets["cifar10"] == default_params.datasets["cifar10"]
    assert gpu_params.protocols["linear"] == default_params.protocols["linear"]
    default_method = default_params.methods["relational"]
    changes = {"views": default_method.views, "epochs": default_method.epochs}  # type: ignore[union-attr]
    assert method.model_copy(update=changes) == default_method


@pytest.mark.slow
def test_script_runs_on_cpu(tmp_path: Path) -> None:
    write_params(tmp_path, lambda raw: raw["methods"].update({"relational-paper": raw["methods"]["relational"]}))
    environment = {**os.environ, "RR_DEVICE": "cpu", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Hide these engines, as if only torch and the other packages that training needs were installed.
    for engine in ("dvc", "snakemake"):
        (tmp_path / "hidden" / engine).mkdir(parents=True)
        (tmp_path / "hidden" / engine / "__init__.py").write_text("raise ImportError")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "hidden"), environment.get("PYTHONPATH", "")])
    command = [ROOT / "workflow/gpu.sh", "params.yaml", "shapes"]
    stopped, complete = (
        subprocess.run(
            command, cwd=tmp_path, env=environment | {"RR_SECONDS": limit}, text=True, capture_output=True, timeout=600
        )
        for limit in ("1", "600")
    )
    assert stopped.returncode == complete.returncode == 0, stopped.stderr + complete.stderr
    assert "training did not end" in stopped.stderr
    assert json.loads(stopped.stdout)["linear"] is None
    results = json.loads(complete.stdout)
    notes = results["bench"]["parts"]["gpu"]["notes"]
    assert notes == [gpu.NO_GPU] or torch.cuda.is_available()
    assert results["pretrain"]["views_per_second"] > 0
    assert 0 <= results["linear"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("training", "code", "message"),
    [("exit 2", 2, ""), ("sleep 60", 0, "training did not end within the time limit")],
)
def test_failed_training_is_not_reported_as_a_time_limit(
    tmp_path: Path, training: str, code: int, message: str
) -> None:
    command = tmp_path / "bin/rr"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncase $1 in bench) echo '{{}}' ;; pretrain) {training} ;; *) exit 9 ;; esac\n")
    command.chmod(0o755)
    (tmp_path / "data/beton/shapes").mkdir(parents=True)
    (tmp_path / "data/beton/shapes/train.beton").touch()
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    script = subprocess.run(
        [ROOT / "workflow/gpu.sh", "params.yaml", "shapes"], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "RR_DEVICE": "cpu", "PATH": path, "RR_SECONDS": "43"}, timeout=120,
    )  # fmt: skip
    assert script.returncode == code
    assert message in script.stderr
    assert bool(script.stdout) == bool(message)


@pytest.mark.slow
def test_first_losses_are_reproducible() -> None:
    losses = gpu.first_losses("cpu")
    assert len(losses) == 3
    assert losses == gpu.first_losses("cpu")


def test_script_without_gpu_and_device_fails(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RR_DEVICE"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.run(
        [ROOT / "workflow/gpu.sh"], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100
    )
    assert process.returncode == 2
    assert "no GPU found" in process.stderr
    assert not list(tmp_path.iterdir())
