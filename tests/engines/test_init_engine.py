"""Test `rr init --run` in a copy of the project, from a folder to the report. Nothing may be left to do."""

import signal
import subprocess
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT, call
from helpers import copy_project, wait_until
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
    process = subprocess.Popen(
        [BIN / "rr", "init", str(folder), "--run"], cwd=project, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_until(lambda: list(project.glob("runs/resume/photos/conv4/relational-photos/1/history.csv")), process)
    process.send_signal(signal.SIGINT)  # sent only to this process; it must reach the stage that DVC runs
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.rstrip().endswith("rr: interrupted: run the same command again to continue")
    assert list(project.glob("runs/resume/photos/conv4/relational-photos/1/resume.pt"))
    output = call(project, "rr", "init", str(folder), "--run")
    assert "pretrain: continuing" in output
    assert output.rstrip().endswith(f"report: {project / 'report/index.html'}")
    page = (project / "report/index.html").read_text()
    assert "relational-photos" in page
    assert "rr fetch" not in output  # the stage is registered because rr init has already read the images
    assert "Data and pipelines are up to date." in call(project, "dvc", "repro")
