"""Run the commands on the pages in `PAGES`, unless a note names a different test or says why they are not run."""

import shutil
import subprocess
from pathlib import Path

import pytest
from documented_commands import PAGES, read_blocks
from engine_calls import ENVIRONMENT, call
from helpers import ROOT, copy_project
from photographs import photographs
from PIL import Image
from ruamel.yaml import YAML

pytestmark = pytest.mark.engine
WEIGHTS = "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
BLOCKS = {
    str(page.relative_to(ROOT)): commands
    for page in PAGES
    if (commands := [line for block in read_blocks(page) if not block.note for line in block.commands])
}


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose small grid has run. Its params.yaml also defines the datasets and methods of the suites."""
    real = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")

    def add_real_entries(params: dict) -> None:
        for section in ("datasets", "methods", "protocols"):
            params[section] = real[section] | params[section]

    folder = copy_project(tmp_path_factory.mktemp("finished"), add_real_entries)
    call(folder, "dvc", "repro", "--quiet")
    return folder


@pytest.mark.parametrize("page", BLOCKS)
def test_commands_of_a_page_succeed(page: str, finished_project: Path, tmp_path: Path) -> None:
    """The home folder contains birds/. The project contains the other files that the commands mention."""
    project, home = tmp_path / "project", tmp_path / "home"
    shutil.copytree(finished_project, project, symlinks=True)
    shutil.copy(project / WEIGHTS, project / "backbone.safetensors")
    for number, pixels in enumerate(photographs()):
        path = home / "birds" / ("robin", "wren")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:40, :50]).save(path)
    shutil.copy(home / "birds/robin/0.jpg", project / "robin.jpg")
    for command in BLOCKS[page]:
        process = subprocess.run(
            ["bash", "-c", command], cwd=project, env=ENVIRONMENT | {"HOME": str(home)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.returncode == 0, f"{command}\n{process.stdout}"
