"""Run the commands of docs/guides/own-images.md on photographs without labels, with two epochs of training."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from documented_commands import read_blocks
from engine_calls import ENVIRONMENT
from helpers import ROOT, copy_project
from photographs import photographs
from PIL import Image

pytestmark = pytest.mark.engine


def read_commands() -> list[str]:
    """Return the guide's commands, except those that no test runs."""
    blocks = list(read_blocks(ROOT / "docs/guides/own-images.md"))
    assert all(block.note for block in blocks)
    name = f"tests/engines/{Path(__file__).name}"
    assert {block.note["test"] for block in blocks if block.note} <= {name, None}
    return [command for block in blocks if block.note and block.note["test"] for command in block.commands]


def test_guide_leads_to_a_report_and_an_index(tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    (home / "birds").mkdir(parents=True)
    for number, pixels in enumerate(photographs()):
        Image.fromarray(pixels).save(home / "birds" / f"{number}.jpg")
    project.mkdir()
    copy_project(project)
    Image.fromarray(photographs()[0]).save(project / "robin.jpg")
    for command in read_commands():
        process = subprocess.run(
            ["bash", "-c", command], cwd=project, env=ENVIRONMENT | {"HOME": str(home)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.returncode == 0, f"{command}\n{process.stdout}"
        if command.startswith("rr init"):
            params = project / "params.yaml"
            params.write_text(re.sub("epochs: 200", "epochs: 2", params.read_text()))
    page = (project / "report/index.html").read_text()
    assert "“Embedding” section shows which images the network considers similar." in page
    assert "relational-birds" in page
    assert "random" in page
    assert pq.read_table(project / "birds.parquet").num_rows == 30
    assert "data:image" in (project / "page.html").read_text()
