"""Run the Python blocks of the README and of the guides, as a reader would."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import python_blocks
from networks import random_backbone
from own_images import save_tree

from rr.backbones.weights import save_backbone
from rr.data.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with weights and a folder of images."""
    monkeypatch.chdir(tmp_path)
    save_backbone(random_backbone("conv4"), Path("backbone.safetensors"), Preprocessing(16, (0.5,) * 3, (0.25,) * 3))
    save_tree(Path("birds"), {"robin": 3, "wren": 3})
    for name in ("robin", "wren"):
        shutil.copy(f"birds/{name}/0.png", f"{name}.png")
    return tmp_path


def test_example_of_the_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = python_blocks("README.md")
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "robin/0.png 1.000"
    assert len(lines) == 6
    assert -1 <= float(lines[-1]) <= 1


def test_example_of_the_search_guide(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = python_blocks("docs/guides/search.md")
    names: dict[str, Any] = {}
    exec(example, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert not any(line.startswith("robin/0.png") for line in lines)
    assert names["table"]["path"].to_pylist() == ["robin.png", "wren.png"]


def test_parquet_file_of_embed_is_read_into_a_matrix_in_one_line(folder: Path, rr: Any) -> None:
    assert rr("embed", "birds", "-o", "features.parquet", "--weights", "backbone.safetensors").code == 0
    (line,) = python_blocks("docs/reference/python.md")
    names: dict[str, Any] = {}
    exec(f"import numpy as np\nimport pyarrow.parquet as pq\n{line}", names)
    import rr as library

    expected = library.Gallery("birds", library.load_backbone("backbone.safetensors")).vectors
    assert names["vectors"].dtype == np.float32
    np.testing.assert_array_equal(names["vectors"], expected)


@pytest.mark.slow
def test_notebook_trains_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(python_blocks("docs/guides/notebook.md")), names)
    assert names["accuracy"] > names["accuracy_before"] + 0.01
    assert np.mean(names["accuracies"]) > 0.8
    *_, query, first, _, _ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{query.removeprefix('query: ')}-"), first  # the most similar image shows the same digit
