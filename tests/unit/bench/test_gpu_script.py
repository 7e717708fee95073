"""The one script that measures a GPU and makes the paper's Conv-4 run, run here in small on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers import write_params

from rr import params
from rr.bench.parts import gpu

ROOT = Path(__file__).parents[3]


def test_its_parameters_are_the_papers() -> None:
    chosen = params.load(ROOT / "workflow/gpu.yaml")
    usual = params.load(ROOT / "params.yaml")
    method = chosen.methods["relational-paper"]
    assert isinstance(method, params.Relational)
    assert (method.views, method.batch_size, method.epochs, method.gamma) == (32, 64, 200, 2.0)
    assert chosen.datasets["cifar10"] == usual.datasets["cifar10"]
    assert chosen.protocols["linear"] == usual.protocols["linear"]
    ours = usual.methods["relational"]
    assert method.model_copy(update={"views": ours.views, "epochs": ours.epochs}) == ours  # type: ignore[union-attr]


def test_it_runs_to_its_end(tmp_path: Path) -> None:
    write_params(tmp_path, lambda raw: raw["methods"].update({"relational-paper": raw["methods"]["relational"]}))
    environment = {**os.environ, "RR_DEVICE": "cpu", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "workflow/gpu.sh", "params.yaml", "shapes"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    rates = done.stdout.split("---")[0]
    assert ("views" if torch.cuda.is_available() else gpu.NO_GPU) in rates
    assert '"accuracy"' in done.stdout
    assert '"views_per_second"' in done.stdout


def test_without_a_gpu_it_stops_unless_told_where_to_run(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RR_DEVICE"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "workflow/gpu.sh"], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=100
    )
    assert done.returncode == 2
    assert "no GPU here" in done.stderr
    assert not list(tmp_path.iterdir())
