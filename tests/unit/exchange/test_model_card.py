"""Test the model card that `rr export` writes: facts from the record, evaluations, and weights without a record."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import EVALUATE, EXTRACT, PRETRAIN, RunRr, pretrain_command
from networks import random_backbone
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

import rr as library
from rr.backbones.weights import read_metadata, save_backbone
from rr.data.preprocessing import Preprocessing
from rr.exchange.export_weights import export_backbone
from rr.runtime.hashing import file_sha256
from rr.workflow.records import with_digest

RUN = Path("runs/pretrain/shapes/conv4/relational/1")
WEIGHTS = RUN / "backbone.safetensors"


@pytest.fixture
def finished(project_copy: Path, rr: RunRr) -> Path:
    """Return the current folder: a project with a pretraining run and one evaluation."""
    for command in (PRETRAIN, EXTRACT, (*EVALUATE, "knn")):
        assert rr(*command).code == 0
    return project_copy


def export(rr: RunRr, weights: Path, output: str, format: str = "safetensors") -> str:
    outcome = rr("export", weights, "--format", format, "--output", output)
    assert outcome.code == 0, outcome.err
    assert f"; model card: {output}.md\n" in outcome.out
    return Path(f"{output}.md").read_text()


@pytest.mark.slow
def test_card_has_the_facts_of_the_run(finished: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    card = export(rr, WEIGHTS, "out.safetensors")
    _, header, body = card.split("---\n", 2)
    assert YAML(typ="safe").load(header) == {
        "tags": ["image-feature-extraction", "self-supervised-learning"], "pipeline_tag": "image-feature-extraction",
    }  # fmt: skip
    record = json.loads((RUN / "run.json").read_text())
    for line in (
        "# conv4, trained on shapes with relational (seed 1)",
        "| architecture | conv4, 24,648 parameters |",
        "| input | RGB images of 32 × 32 pixels, values in [0, 1], normalized with mean [0.5, 0.5, 0.5] and std "
        "[0.25, 0.25, 0.25] |",
        f"| file | out.safetensors (safetensors), SHA-256 {file_sha256(Path('out.safetensors'))} |",
        f"| source | backbone.safetensors, SHA-256 {file_sha256(WEIGHTS)} |",
        f"| date | {record['started']} |",
    ):
        assert f"{line}\n" in body
    assert "| training | 2,400 views, " in body
    parameters = YAML(typ="safe").load(body.split("```yaml\n")[1].split("```")[0])
    assert parameters == {"relational": record["params"]["methods.relational"]}
    metrics = json.loads(Path(str(RUN).replace("pretrain", "evaluate"), "shapes/knn/metrics.json").read_text())
    p, n, z = metrics["accuracy"], metrics["test_images"], 1.959964
    center, width = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (center - width) / (1 + z**2 / n), (center + width) / (1 + z**2 / n)
    assert f"| shapes | knn | accuracy | {p:.4f} | {low:.4f} to {high:.4f} |\n" in body
    # The exported file can be used as the card says.
    assert library.load_backbone("out.safetensors")(np.zeros((40, 30, 3), np.uint8)).shape == (1, 64)
    assert 'rr.load_backbone("out.safetensors")' in body

    # In the run's own folder, the command finds the same evaluations. For a copy of the run elsewhere, it finds none.
    evaluation = card.partition("## Evaluation")[2]
    monkeypatch.chdir(RUN)
    assert export(rr, Path(WEIGHTS.name), "out.safetensors").partition("## Evaluation")[2] == evaluation
    Path("out.safetensors").unlink()
    Path("out.safetensors.md").unlink()
    monkeypatch.chdir(finished)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copytree(RUN, f"{folder}/run")
        copied = export(rr, Path(folder, "run", WEIGHTS.name), "out.safetensors")
    assert "# conv4, trained on shapes with relational (seed 1)" in copied
    assert "## Evaluation" not in copied

    shutil.copytree(RUN, "other/record/of/other/weights")
    other = Path("other/record/of/other/weights/backbone.safetensors")
    save_backbone(random_backbone("conv4"), other)
    assert "There is no record of how these weights were trained." in export(rr, other, "other.safetensors")


@pytest.mark.slow
def test_evaluation_of_other_weights_is_not_listed(finished: Path, rr: RunRr) -> None:
    assert "## Evaluation" in export(rr, WEIGHTS, "out.safetensors")
    (record_file,) = Path("runs/evaluate").rglob("run.json")
    record = json.loads(record_file.read_text())
    inputs = dict.fromkeys(record["inputs"], "0" * 64)
    record_file.write_text(json.dumps(with_digest(record | {"inputs": inputs})))
    assert "## Evaluation" not in export(rr, WEIGHTS, "out.safetensors")
    record_file.write_text("{")
    assert "## Evaluation" not in export(rr, WEIGHTS, "out.safetensors")
    record_file.unlink()  # DVC may have fetched the metrics without the record
    assert "## Evaluation" not in export(rr, WEIGHTS, "out.safetensors")


def test_card_of_random_weights_does_not_say_that_they_were_trained(project_copy: Path, rr: RunRr) -> None:
    assert rr(*pretrain_command("random")).code == 0
    card = export(rr, Path("runs/pretrain/shapes/conv4/random/1/backbone.safetensors"), "out.safetensors")
    assert card.startswith("---\ntags: [image-feature-extraction]\n")
    assert "\n# conv4, random (seed 1)\n" in card


def test_card_without_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    monkeypatch.chdir(tmp_path)
    save_backbone(random_backbone("resnet8"), Path("w.safetensors"))
    card = export(rr, Path("w.safetensors"), "out.pt", "state-dict")
    assert "\n# resnet8\n" in card
    assert "| input | RGB images |\n" in card
    assert "There is no record of how these weights were trained." in card
    assert "## Evaluation" not in card
    assert "## Use" not in card
    assert "| input | RGB images of 32 × 32 pixels |\n" in export(rr, Path("w.safetensors"), "traced.pt", "torchscript")


def test_card_of_weights_with_incomplete_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = Path("w.safetensors")
    save_backbone(random_backbone("conv4"), weights)
    save_file(load_file(weights), weights, {"rr": json.dumps(read_metadata(weights) | {"mean": [0.5, 0.5, 0.5]})})
    assert "| input | RGB images |\n" in export(rr, weights, "out.safetensors")


def test_card_of_released_weights_keeps_their_title_and_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    monkeypatch.chdir(tmp_path)
    card = export(rr, Path("conv4-cifar10-simclr"), "out.safetensors")
    assert "tags: [image-feature-extraction, self-supervised-learning]\n" in card
    assert "\n# conv4, trained on cifar10 with simclr-paper (seed 1)\n" in card
    card = export(rr, Path("conv4-cifar10-supervised"), "out.safetensors")
    assert "tags: [image-feature-extraction]\n" in card


def test_card_of_other_weights_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    monkeypatch.chdir(tmp_path)
    other = export(rr, Path("conv4-cifar10-simclr"), "other.safetensors")
    save_backbone(random_backbone("conv4"), Path("w.safetensors"))
    Path("w.safetensors.md").write_text(other)
    card = export(rr, Path("w.safetensors"), "out.safetensors")
    assert "tags: [image-feature-extraction]\n" in card
    assert "\n# conv4\n" in card
    assert "There is no record of how these weights were trained." in card


def test_card_has_the_input_size_of_the_exported_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is that of the pretraining images only for a format without a model."""
    monkeypatch.chdir(tmp_path)
    weights = Path("w.safetensors")
    save_backbone(random_backbone("conv4"), weights, Preprocessing(32, (0.5,) * 3, (0.25,) * 3))
    for format, output, image_size, size in (("torchscript", "a.pt", 64, 64), ("state-dict", "b.pt", None, 32)):
        export_backbone(weights, format, Path(output), image_size)
        assert f"| input | RGB images of {size} × {size} pixels, values in" in Path(f"{output}.md").read_text()
