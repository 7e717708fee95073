"""The loop: same bits after a kill, for any machine's timing, and a clear end when it cannot go on."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PRETRAIN, RunRr, write_params
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import load_file

from rr import backbones
from rr.backbones.weights import load_backbone

FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
HISTORY = Path("runs/history/shapes/conv4/relational/1.csv")


@pytest.fixture
def ready(converted_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own with converted data."""
    folder = tmp_path / "project"
    shutil.copytree(converted_project, folder)
    monkeypatch.chdir(folder)
    return folder


def artefacts(folder: Path) -> dict[str, bytes]:
    files = [folder / FOLDER / "backbone.safetensors", folder / FOLDER / "views.png", folder / HISTORY]
    return {file.name: file.read_bytes() for file in files}


def test_a_run_writes_weights_history_views_and_record(ready: Path, rr: RunRr) -> None:
    outcome = rr(*PRETRAIN)
    assert outcome.code == 0
    assert "2,400 views" in outcome.out
    rows = list(csv.DictReader((ready / HISTORY).open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    relational = ["accuracy", "accuracy_positive", "accuracy_negative", "information"]
    assert list(rows[0]) == ["epoch", "loss", *relational, "views", "pairs"]
    both = (float(rows[0]["accuracy_positive"]) + float(rows[0]["accuracy_negative"])) / 2
    assert float(rows[0]["accuracy"]) == pytest.approx(both)  # there are as many pairs of either kind
    record = json.loads((ready / FOLDER / "run.json").read_text())
    assert record["views"] == 200 * 4 * 3
    assert record["params"]["methods.relational"]["views"] == 4
    assert len(record["epoch_seconds"]) == 3
    assert not (ready / "runs/resume").exists() or not list((ready / "runs/resume").rglob("*.pt"))
    backbone = load_backbone(ready / FOLDER / "backbone.safetensors")
    assert sum(p.numel() for p in backbone.parameters()) == 24648
    with safe_open(ready / FOLDER / "backbone.safetensors", "np") as file:
        about = json.loads(file.metadata()["rr"])
    assert about == {"backbone": "conv4", "features": 64, "side": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    sheet = np.asarray(Image.open(ready / FOLDER / "views.png"))
    assert sheet.shape == (6 * 34 + 2, 5 * 34 + 2, 3)


def test_equal_seeds_give_equal_files_and_others_do_not(ready: Path, rr: RunRr) -> None:
    rr(*PRETRAIN)
    first = artefacts(ready)
    rr(*PRETRAIN)
    assert artefacts(ready) == first
    rr(*PRETRAIN[:-1], "2")
    other = (ready / FOLDER.with_name("2") / "backbone.safetensors").read_bytes()
    assert other != first["backbone.safetensors"]


def test_a_killed_run_continues_to_the_same_bits(ready: Path, rr: RunRr) -> None:
    write_params(ready, lambda params: params["methods"]["relational"].update(epochs=12))
    rr(*PRETRAIN)
    undisturbed = artefacts(ready)
    shutil.rmtree(ready / "runs")
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "rr", *PRETRAIN], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        resume = ready / "runs/resume/shapes/conv4/relational/1/resume.pt"
        before = resume.stat().st_mtime_ns if resume.exists() else 0
        while process.poll() is None:
            if resume.exists() and resume.stat().st_mtime_ns > before:
                time.sleep(0.05)  # some steps into the next epoch
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
        assert not (ready / FOLDER / "run.json").exists() or kills == 0
    assert kills >= 2
    outcome = rr(*PRETRAIN)
    assert "continuing in epoch" in outcome.out
    assert artefacts(ready) == undisturbed
    assert not list(ready.rglob(".*.tmp*"))


def test_a_state_inside_an_epoch_is_continued_to_the_same_bits(
    ready: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rr.pretrain import loop

    rr(*PRETRAIN)
    undisturbed = artefacts(ready)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    saved, save = [], loop.save_checkpoint

    def stop_in_the_middle(resume: Path, spec: str, run: loop.TrainState, *rest: object) -> None:
        save(resume, spec, run, *rest)
        saved.append(run.step)
        if len(saved) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop_in_the_middle)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 130
    assert "run the same command again to continue" in outcome.err
    assert saved[-1] not in (0, 7)
    outcome = rr(*PRETRAIN)
    assert f"continuing in epoch 2 at step {saved[9]}" in outcome.out
    assert artefacts(ready) == undisturbed


def test_a_resume_file_cannot_execute_anything(ready: Path, rr: RunRr) -> None:
    import pickle

    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(ready / "executed"),)

    resume = ready / "runs/resume/shapes/conv4/relational/1/resume.pt"
    resume.parent.mkdir(parents=True)
    resume.write_bytes(pickle.dumps(Malicious()))
    assert rr(*PRETRAIN).code == 0
    assert not (ready / "executed").exists()


def test_random_weights_are_those_every_method_begins_with(ready: Path, rr: RunRr) -> None:
    assert rr(*PRETRAIN[:6], "random", "--seed", "1").code == 0
    saved = load_file(ready / "runs/pretrain/shapes/conv4/random/1/backbone.safetensors")
    torch.manual_seed(1)
    fresh = backbones.build("conv4").state_dict()
    assert all(torch.equal(saved[name], fresh[name]) for name in fresh)


def test_supervised_learns_and_its_rate_falls(ready: Path, rr: RunRr) -> None:
    write_params(ready, lambda params: params["methods"]["supervised"].update(epochs=6))
    assert rr(*PRETRAIN[:6], "supervised", "--seed", "1").code == 0
    rows = list(csv.DictReader((ready / "runs/history/shapes/conv4/supervised/1.csv").open()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_random_negatives_differ_between_seeds_epochs_and_steps() -> None:
    from rr.pretrain.loop import _step_generator

    drawn = {tuple(torch.randint(1000, (8,), generator=_step_generator(*key)).tolist()) for key in np.ndindex(3, 3, 3)}
    assert len(drawn) == 27
    highest = (2**31 - 1, 10, 10)
    assert torch.equal(*(torch.randint(1000, (8,), generator=_step_generator(*highest)) for _ in range(2)))


def test_a_last_batch_of_one_is_refused_before_training(ready: Path, rr: RunRr) -> None:
    write_params(ready, lambda params: params["methods"]["relational"].update(views=2, batch_size=199))
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "200 pictures in batches of 199 leave a last batch of 1" in outcome.err


def test_two_processes_do_not_make_the_same_artefact(ready: Path, rr: RunRr) -> None:
    from rr.runtime.lock import exclusive_lock

    with exclusive_lock(FOLDER):
        outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert f"process {os.getpid()} is writing {FOLDER}" in outcome.err
    assert rr(*PRETRAIN).code == 0


@pytest.mark.parametrize("content", ["{}", "[]", "null", "no json", "[" * 100_000])
def test_a_record_that_is_none_is_named(ready: Path, rr: RunRr, content: str) -> None:
    (ready / "data/beton/shapes/run.json").write_text(content)
    for command in (PRETRAIN, ("verify",)):
        outcome = rr(*command)
        assert outcome.code == 2
        assert "data/beton/shapes/run.json is damaged" in outcome.err


def test_a_loss_that_is_no_number_stops_with_its_epoch(ready: Path, rr: RunRr) -> None:
    write_params(ready, lambda params: params["methods"]["relational"].update(learning_rate=1e30))
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "the loss is nan in epoch" in outcome.err
    assert not (ready / FOLDER / "backbone.safetensors").exists()


def test_supervised_refuses_pictures_without_labels(project: Path, rr: RunRr) -> None:
    (project / "pictures").mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(project / f"pictures/{i}.png")

    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "pictures", "test_fraction": 0.2, "on_unreadable": "raise"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
        params["methods"]["relational"]["epochs"] = 1

    write_params(project, change)
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    cell = ("--dataset", "mine", "--backbone", "conv4", "--seed", "1", "--method")
    outcome = rr("pretrain", *cell, "supervised")
    assert outcome.code == 2
    assert "needs at least two classes, but this dataset has 0" in outcome.err
    assert rr("pretrain", *cell, "relational").code == 0
    outcome = rr("evaluate", *cell, "relational", "--target", "mine", "--protocol", "knn")
    assert outcome.code == 2
    assert "labels are absent" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--backbone", "conv5"), "--backbone conv5: unknown; did you mean 'conv4'?"),
        (("--method", "relationl"), "--method relationl: not in params.yaml; did you mean 'relational'?"),
        (("--dataset", "shape"), "--dataset shape: not in params.yaml; did you mean 'shapes'?"),
        (("--device", "gpu"), "--device gpu: unknown device; use auto, cpu, cuda or cuda:<number>"),
        (("--device", "cuda"), "torch finds no GPU on this machine"),
    ],
)
def test_a_wrong_word_is_named(ready: Path, rr: RunRr, arguments: tuple[str, str], expected: str) -> None:
    outcome = rr(*PRETRAIN, *arguments)
    assert outcome.code == 2
    assert expected in outcome.err
    assert not (ready / "runs").exists()


def test_data_that_is_missing_or_changed_is_named_before_it_is_opened(ready: Path, rr: RunRr) -> None:
    beton = ready / "data/beton/shapes/train.beton"
    content = bytearray(beton.read_bytes())
    content[len(content) // 2] ^= 1
    beton.write_bytes(content)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "train.beton does not match its record" in outcome.err
    beton.unlink()
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "train.beton is missing: run rr convert first" in outcome.err


def test_a_full_disk_at_a_checkpoint_is_explained_and_survived(ready: Path, rr: RunRr) -> None:
    place = ready / "runs/resume"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert "no space left on the disk" in outcome.err
        assert not list(place.rglob("*.pt"))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    assert rr(*PRETRAIN).code == 0


def test_an_imported_backbone_goes_through_the_workflow_like_any_other(ready: Path, rr: RunRr) -> None:
    torch.manual_seed(7)
    backbone = backbones.build("resnet8")
    torch.save({"backbone": backbone.state_dict(), "relation": {}, "optimizer": {}}, ready / "authors.tar")
    outcome = rr("import", "authors.tar", "--backbone", "resnet8", "--output", "authors.safetensors")
    assert outcome.code == 0
    entry = YAML(typ="safe").load("\n".join(outcome.out.splitlines()[-3:]))
    write_params(ready, lambda params: params["methods"].update(authors=entry))
    names = ("--dataset", "shapes", "--backbone", "resnet8", "--method", "authors", "--seed", "1")
    assert rr("pretrain", *names).code == 0
    written = load_backbone(ready / "runs/pretrain/shapes/resnet8/authors/1/backbone.safetensors")
    pictures = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(written(pictures), backbone.eval()(pictures))
    assert rr("evaluate", *names, "--target", "shapes", "--protocol", "knn").code == 0
    (ready / "authors.safetensors").write_bytes(b"another file")
    outcome = rr("pretrain", *names)
    assert outcome.code == 2
    assert "authors.safetensors" in outcome.err
