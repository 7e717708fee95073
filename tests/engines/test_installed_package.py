"""Test the wheel outside the repository: in a new project, and without the packages from its extras."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, write_params
from networks import random_backbone
from own_images import save_tree

from rr.backbones.weights import save_backbone
from rr.params import DatasetConfig, ShapesSource

pytestmark = [pytest.mark.engine, pytest.mark.slow]

WITHOUT_EXTRAS = """
import sys
for name in ("ffcv", "dvc", "snakemake", "matplotlib", "onnx"):
    sys.modules[name] = None
from rr.cli import main
main()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the wheel of this project is installed, built from its source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=ROOT, check=True)
    (source,) = folder.glob("relational_reasoning-*.tar.gz")
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("relational_reasoning-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(site: Path, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]]),
        "PATH": os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_new_project_runs_with_both_engines(site: Path, tmp_path: Path) -> None:
    def reduce(params: dict) -> None:
        params["grid"].update(method=["random"], protocol=["knn"])

    process = run(site, tmp_path, "rr", "init")
    assert process.returncode == 0, process.stderr
    write_params(tmp_path, reduce)
    process = run(site, tmp_path, "dvc", "repro")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "report/index.html").is_file()
    process = run(site, tmp_path, "snakemake", "-n", "--quiet")
    assert "Nothing to be done" in process.stdout + process.stderr
    assert run(site, tmp_path, "rr", "verify").returncode == 0
    # A different version of the package makes the results out of date, as editing the code does in a clone.
    module = site / "rr/evaluate/knn.py"
    source = module.read_text()
    try:
        module.write_text(f"{source}\nCHANGED = True\n")
        assert "rr/evaluate" in run(site, tmp_path, "dvc", "status").stdout
        assert "rr/evaluate/knn.py" in run(site, tmp_path, "rr", "verify").stderr
    finally:
        module.write_text(source)


def test_commands_that_need_no_stage_work_without_the_extras(site: Path, tmp_path: Path) -> None:
    weights = tmp_path / "backbone.safetensors"
    dataset = DatasetConfig(
        source=ShapesSource(kind="shapes", train=10, test=10, seed=0), image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    save_backbone(random_backbone("conv4"), weights, dataset)
    save_tree(tmp_path / "images", {"": 3})
    query = next((tmp_path / "images").rglob("*.png"))
    for arguments in (
        ["embed", "images", "-o", "features.parquet", "--weights", weights],
        ["retrieve", query, "--gallery", "images", "--weights", weights, "-o", "page.html"],
        ["export", weights, "--format", "torchscript", "--output", "model.pt"],
        ["init"],
        ["suite", "list"],
        ["fetch", "--dataset", "shapes"],
        ["init", "images", "--name", "own"],
    ):
        process = run(site, tmp_path, sys.executable, "-c", WITHOUT_EXTRAS, *arguments)
        assert process.returncode == 0, process.stderr
    assert "DVC could not register this run and would rerun it (rr sync: dvc cannot be imported" in process.stderr


def test_missing_package_is_named_with_its_extra(site: Path, tmp_path: Path) -> None:
    assert run(site, tmp_path, "rr", "init").returncode == 0
    write_params(tmp_path)
    assert run(site, tmp_path, "rr", "fetch", "--dataset", "shapes").returncode == 0
    process = run(site, tmp_path, sys.executable, "-c", WITHOUT_EXTRAS, "convert", "--dataset", "shapes")
    assert process.returncode == 2, process.stderr
    assert "the package ffcv is not installed: run pip install 'relational-reasoning[workflow]'" in process.stderr
    assert "Traceback" not in process.stderr
