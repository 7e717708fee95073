"""Test `rr init --run` in a copy of the project, from a folder to the report. Nothing may be left to do."""

from pathlib import Path

import pytest
from engine_calls import call
from helpers import copy_project
from photographs import photographs
from PIL import Image

pytestmark = pytest.mark.engine


def test_folder_becomes_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number, pixels in enumerate(photographs()):
        path = folder / ("low", "high")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:40, :50]).save(path)
    project = tmp_path / "project"
    project.mkdir()
    copy_project(project)
    output = call(project, "rr", "init", str(folder), "--run")
    assert output.rstrip().endswith(f"report: {project / 'report/index.html'}")
    page = (project / "report/index.html").read_text()
    assert "relational-photos" in page
    assert "rr fetch" not in output  # the stage is registered because rr init has already read the images
    assert "Data and pipelines are up to date." in call(project, "dvc", "repro")
