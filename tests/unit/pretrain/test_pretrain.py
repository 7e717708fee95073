"""Tests of `rr pretrain`: outputs, reproducibility, interruptions, and errors."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from helpers import PAPER_AUGMENTATION, PRETRAIN, RunRr, interrupt_at, mount_tmpfs, write_params
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import load_file

from rr import backbones, commands, methods
from rr.backbones.weights import load_backbone
from rr.compute.process_group import ProcessGroup
from rr.data.beton import Beton
from rr.data.photograph_beton import open_split
from rr.paths import PretrainFolder
from rr.pretrain import Job, loop, pretrain
from rr.pretrain.loop import Trainer
from rr.runtime.hashing import file_sha256
from rr.runtime.weights_lookup import find_weights
from rr.views import Augmentation, make_views

FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
HISTORY = Path("runs/history/shapes/conv4/relational/1.csv")


def read_outputs(folder: Path) -> dict[str, bytes]:
    names = ("backbone.safetensors", "last_epoch.safetensors", "views.png")
    files = [*(folder / FOLDER / name for name in names), folder / HISTORY]
    return {file.name: file.read_bytes() for file in files}


def read_tiles(path: Path, columns: int) -> np.ndarray:
    """Return the images of a grid with six rows of images, uint8 (6, columns, 32, 32, 3)."""
    grid = np.asarray(Image.open(path))[2:, 2:]
    return grid.reshape(6, 34, columns, 34, 3).swapaxes(1, 2)[:, :, :32, :32]


def test_run_writes_weights_history_views_and_record(project_copy: Path, rr: RunRr) -> None:
    outcome = rr(*PRETRAIN)
    assert outcome.code == 0
    assert "2,400 views" in outcome.out
    rows = list(csv.DictReader((project_copy / HISTORY).open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    relational = ["accuracy", "accuracy_positive", "accuracy_negative", "information"]
    assert list(rows[0]) == ["epoch", "loss", *relational, "views", "pairs"]
    mean = (float(rows[0]["accuracy_positive"]) + float(rows[0]["accuracy_negative"])) / 2
    assert float(rows[0]["accuracy"]) == pytest.approx(mean)  # there are as many positive as negative pairs
    record = json.loads((project_copy / FOLDER / "run.json").read_text())
    assert record["views"] == 200 * 4 * 3
    assert record["params"]["methods.relational"]["views"] == 4
    assert len(record["epoch_seconds"]) == 3
    (checkpoint,) = (project_copy / "runs/resume").rglob("*.*")
    assert checkpoint.name.startswith("finished.")
    backbone = load_backbone(project_copy / FOLDER / "backbone.safetensors")
    assert sum(p.numel() for p in backbone.parameters()) == 24648
    with safe_open(project_copy / FOLDER / "backbone.safetensors", "np") as file:
        metadata = json.loads(file.metadata()["rr"])
    dataset = {"side": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert metadata == {"backbone": "conv4", "features": 64, **dataset, "aggregation": "cat"}
    data = Beton(project_copy / "data/beton/shapes/train.beton", threads=1)
    tiles = read_tiles(FOLDER / "views.png", 5)
    assert np.array_equal(tiles[:, 0], data.images[:6])
    views = make_views(
        data.images[:6], data.index[:6], augmentation=Augmentation(**PAPER_AUGMENTATION), seed=1, epoch=0, num_views=4,
        mean=(0, 0, 0), std=(1, 1, 1), device="cpu",
    )  # fmt: skip
    expected = 255 * views.view(4, 6, 3, 32, 32).permute(1, 0, 3, 4, 2).numpy()
    assert np.abs(tiles[:, 1:] - expected).max() < 0.51


def test_grid_of_random_weights_shows_training_images(project_copy: Path, rr: RunRr) -> None:
    command = ["random" if argument == "relational" else argument for argument in PRETRAIN]
    assert rr(*command).code == 0
    tiles = read_tiles(Path(str(FOLDER).replace("relational", "random"), "views.png"), 8)
    assert np.array_equal(
        tiles.reshape(48, 32, 32, 3), Beton(Path("data/beton/shapes/train.beton"), threads=1).images[:48]
    )


def test_files_depend_only_on_the_seed(project_copy: Path, rr: RunRr) -> None:
    rr(*PRETRAIN)
    first = read_outputs(project_copy)
    shutil.rmtree("runs")
    rr(*PRETRAIN)
    assert read_outputs(project_copy) == first
    rr(*PRETRAIN[:-1], "2")
    other = (project_copy / FOLDER.with_name("2") / "backbone.safetensors").read_bytes()
    assert other != first["backbone.safetensors"]


@pytest.mark.parametrize("dvc_stage", [None, "pretrain@shapes-conv4-relational-1"])
def test_run_that_matches_its_record_is_not_repeated(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, dvc_stage: str | None
) -> None:
    if dvc_stage:
        monkeypatch.setenv("DVC_STAGE", dvc_stage)
    assert "2,400 views" in rr(*PRETRAIN).out
    record = (project_copy / FOLDER / "run.json").read_bytes()
    assert "matches its record, so the stage was not rerun" in rr(*PRETRAIN).out
    assert (project_copy / FOLDER / "run.json").read_bytes() == record
    write_params(project_copy, lambda params: params["methods"]["relational"].update(epochs=2))
    assert "1,600 views" in rr(*PRETRAIN).out


def test_finished_run_does_not_wait_for_a_gpu(project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    rr(*PRETRAIN)
    monkeypatch.setattr(commands, "acquire_device", lambda name: pytest.fail("a device was requested"))
    assert "matches its record" in rr(*PRETRAIN).out


# The process is killed after ten steps. An epoch has seven steps and ends with a checkpoint, so every process completes
# one epoch and is killed within the next one.
KILLED_RUN = """
import os, signal, sys
from rr import cli
from rr.pretrain.loop import Trainer
steps, run_step = [], Trainer.run_step
def run_step_or_end(self, batch):
    run_step(self, batch)
    steps.append(1)
    if len(steps) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.run_step = run_step_or_end
sys.argv[0] = "rr"
cli.run()
"""


@pytest.mark.slow
def test_killed_run_continues_to_identical_results(project_copy: Path, rr: RunRr) -> None:
    write_params(project_copy, lambda params: params["methods"]["relational"].update(epochs=12))
    rr(*PRETRAIN)
    expected = read_outputs(project_copy)
    shutil.rmtree(project_copy / "runs")
    for _ in range(3):
        process = subprocess.run([sys.executable, "-c", KILLED_RUN, *PRETRAIN], capture_output=True)
        assert process.returncode == -signal.SIGKILL
        assert not (project_copy / FOLDER / "run.json").exists()
    outcome = rr(*PRETRAIN)
    assert "continuing in epoch 4" in outcome.err
    assert read_outputs(project_copy) == expected
    assert not list(project_copy.rglob(".*.tmp*"))


def test_interrupted_run_continues_within_an_epoch_to_identical_results(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    rr(*PRETRAIN)
    expected = read_outputs(project_copy)
    shutil.rmtree("runs")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, 3)
        outcome = rr(*PRETRAIN)
    assert outcome.code == 130
    assert "run the same command again to continue" in outcome.err
    assert "continuing in epoch 2 after step 3" in rr(*PRETRAIN).err
    assert read_outputs(project_copy) == expected


def test_interrupted_trial_does_not_affect_an_interrupted_run(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial has fewer epochs. Both runs are interrupted in their last epoch; their checkpoints share a folder."""
    rr(*PRETRAIN)
    expected = read_outputs(project_copy)
    shutil.rmtree("runs")
    for epochs, last_step in ((3, (2, 2)), (1, (0, 1))):
        write_params(project_copy, lambda params, epochs=epochs: params["methods"]["relational"].update(epochs=epochs))
        with monkeypatch.context() as patch:
            interrupt_at(patch, *last_step)
            assert rr(*PRETRAIN).code == 130
    write_params(project_copy)
    assert "continuing in epoch 3 after step 2" in rr(*PRETRAIN).err
    assert read_outputs(project_copy) == expected


def test_random_method_has_the_initial_weights_of_all_methods(project_copy: Path, rr: RunRr) -> None:
    assert rr(*PRETRAIN[:6], "random", "--seed", "1").code == 0
    saved = load_file(project_copy / "runs/pretrain/shapes/conv4/random/1/backbone.safetensors")
    torch.manual_seed(1)
    initial = backbones.build("conv4").state_dict()
    assert all(torch.equal(saved[name], initial[name]) for name in initial)


def test_supervised_loss_falls(project_copy: Path, rr: RunRr) -> None:
    write_params(project_copy, lambda params: params["methods"]["supervised"].update(epochs=6))
    assert rr(*PRETRAIN[:6], "supervised", "--seed", "1").code == 0
    rows = list(csv.DictReader((project_copy / "runs/history/shapes/conv4/supervised/1.csv").open()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_step_seeds_differ_between_seeds_epochs_steps_and_processes() -> None:
    from rr.pretrain.loop import _step_seed

    seeds = {_step_seed(*key, *rank) for key in np.ndindex(3, 3, 3) for rank in ((), (1,), (2,))}
    assert len(seeds) == 81
    assert _step_seed(2**31 - 1, 10, 10) == _step_seed(2**31 - 1, 10, 10) < 2**32


def test_each_process_draws_its_own_dropout_masks(tmp_path: Path) -> None:
    """torch's random seed, which dropout uses, differs between processes; the random inputs to the loss do not."""
    job = Job(golden.PARAMS.datasets["shapes"], "conv4", golden.small_config("infomax"), 10, 1, "float32",
              golden.NO_DYNAMICS, "test")  # fmt: skip
    beton = open_split(golden.write_images(tmp_path / "train.beton", 80), job.preprocessing, threads=1)
    method = methods.build(job.method, backbones.build("conv4"), 10)
    trainer = Trainer(job, method, beton, tmp_path / "resume.pt", "cpu", ProcessGroup())
    observed = []

    def observe_and_stop(inputs: object, labels: object, random_inputs: tuple[torch.Tensor, ...]) -> None:
        observed.append((torch.initial_seed(), [tensor.tolist() for tensor in random_inputs]))
        raise Stop

    trainer.forward = observe_and_stop  # type: ignore[assignment]
    batch = next(trainer.loader.iter_epoch(0, 0, trainer.num_images))
    for rank in (0, 1, 0):
        trainer.group = ProcessGroup(rank=rank, world_size=2)
        with pytest.raises(Stop):
            trainer.run_step(batch)
    first, second, again = observed
    assert first == again
    assert first[0] != second[0]
    assert first[1] == second[1] != []
    # The seed of the random inputs to the loss, which all processes share, differs from torch's seeds.
    assert loop._step_seed(1, 0, 0) not in (first[0], second[0])


def test_last_batch_of_one_raises_before_training(project_copy: Path, rr: RunRr) -> None:
    write_params(project_copy, lambda params: params["methods"]["relational"].update(views=2, batch_size=199))
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "relational cannot be trained on shapes, because the last mini-batch contains 1 of the 200" in outcome.err


def test_run_that_another_process_writes_raises(project_copy: Path, rr: RunRr) -> None:
    from rr.runtime.lock import exclusive_lock

    with exclusive_lock(FOLDER):
        outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert f"process {os.getpid()} is writing to {FOLDER}" in outcome.err
    assert rr(*PRETRAIN).code == 0


@pytest.mark.parametrize("content", ["{}", "[]", "null", "not json", "[" * 100_000])
def test_damaged_record_raises(project_copy: Path, rr: RunRr, content: str) -> None:
    (project_copy / "data/beton/shapes/run.json").write_text(content)
    for command in (PRETRAIN, ("verify",)):
        outcome = rr(*command)
        assert outcome.code == 2
        assert "data/beton/shapes/run.json is damaged" in outcome.err


def test_nan_loss_raises_and_names_the_epoch(project_copy: Path, rr: RunRr) -> None:
    write_params(project_copy, lambda params: params["methods"]["relational"].update(learning_rate=1e30))
    outcome = rr(*PRETRAIN)
    assert outcome.code == 2
    assert "the loss is nan in epoch" in outcome.err
    assert not (project_copy / FOLDER / "backbone.safetensors").exists()


def test_supervised_without_labels_raises(project: Path, rr: RunRr) -> None:
    (project / "images").mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(project / f"images/{i}.png")

    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "images", "test_fraction": 0.2, "on_unreadable": "raise"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
        params["methods"]["relational"]["epochs"] = 1

    write_params(project, change)
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "mine").code == 0
    run_arguments = ("--dataset", "mine", "--backbone", "conv4", "--seed", "1", "--method")
    outcome = rr("pretrain", *run_arguments, "supervised")
    assert outcome.code == 2
    assert (
        "supervised cannot be trained on mine, because the method needs a label for every training image" in outcome.err
    )
    assert rr("pretrain", *run_arguments, "relational").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--backbone", "conv5"), "--backbone: unknown backbone 'conv5'; did you mean 'conv4'?"),
        (("--method", "relationl"), "--method: unknown 'relationl'; did you mean 'relational'?"),
        (("--dataset", "shape"), "--dataset: unknown 'shape'; did you mean 'shapes'?"),
        (("--device", "gpu"), "--device gpu: unknown device; use auto, cpu, cuda or cuda:<number>"),
        (("--device", "cpu:0"), "--device cpu:0: unknown device"),
        (("--device", "cuda:"), "--device cuda:: unknown device"),
        (("--device", "cuda"), "torch found no GPU on this machine"),
    ],
)
def test_unknown_name_raises(project_copy: Path, rr: RunRr, arguments: tuple[str, str], expected: str) -> None:
    outcome = rr(*PRETRAIN, *arguments)
    assert outcome.code == 2
    assert expected in outcome.err
    assert not (project_copy / "runs").exists()


def test_missing_or_changed_beton_raises(project_copy: Path, rr: RunRr) -> None:
    beton = project_copy / "data/beton/shapes/train.beton"
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


def test_full_disk_at_a_checkpoint_raises_and_the_run_can_be_repeated(project_copy: Path, rr: RunRr) -> None:
    folder = project_copy / "runs/resume"
    with mount_tmpfs(folder, "size=64k"):
        outcome = rr(*PRETRAIN)
        assert outcome.code == 2
        assert "no space left on the disk" in outcome.err
        assert not list(folder.rglob("*.pt"))
    assert rr(*PRETRAIN).code == 0


def test_imported_backbone_is_pretrained_and_evaluated(project_copy: Path, rr: RunRr) -> None:
    torch.manual_seed(7)
    backbone = backbones.build("resnet8")
    torch.save({"backbone": backbone.state_dict(), "relation": {}, "optimizer": {}}, project_copy / "imported.tar")
    outcome = rr("import", "imported.tar", "--backbone", "resnet8", "--output", "imported.safetensors")
    assert outcome.code == 0
    entry = YAML(typ="safe").load("\n".join(outcome.out.splitlines()[-3:]))
    write_params(project_copy, lambda params: params["methods"].update(imported=entry))
    run_arguments = ("--dataset", "shapes", "--backbone", "resnet8", "--method", "imported", "--seed", "1")
    assert rr("pretrain", *run_arguments).code == 0
    written = load_backbone(project_copy / "runs/pretrain/shapes/resnet8/imported/1/backbone.safetensors")
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(written(images), backbone.eval()(images))
    assert rr("extract", *run_arguments, "--target", "shapes").code == 0
    assert rr("evaluate", *run_arguments, "--target", "shapes", "--protocol", "knn").code == 0
    shutil.rmtree("runs")
    (project_copy / "imported.safetensors").write_bytes(b"another file")
    outcome = rr("pretrain", *run_arguments)
    assert outcome.code == 2
    assert "imported.safetensors" in outcome.err


def test_training_starts_from_initial_weights(project_copy: Path, rr: RunRr) -> None:
    """With a tiny learning rate, the convolutions keep the initial weights. A wrong hash is found before training."""
    file = find_weights("conv4-cifar10-simclr")
    entry = {"path": "conv4-cifar10-simclr", "sha256": file_sha256(file)}

    def change(params: dict[str, Any]) -> None:
        params["methods"]["relational"].update(initial_weights=entry, learning_rate=1e-12)

    write_params(project_copy, change)
    assert rr(*PRETRAIN).code == 0
    initial, trained = load_file(file), load_file(project_copy / FOLDER / "backbone.safetensors")
    names = [name for name, value in initial.items() if value.ndim == 4]
    assert len(names) == 4
    for name in names:
        torch.testing.assert_close(trained[name], initial[name], rtol=0, atol=1e-7)
    record = json.loads((project_copy / FOLDER / "run.json").read_text())
    assert record["params"]["methods.relational"]["initial_weights"] == entry

    entry["sha256"] = "0" * 64
    write_params(project_copy, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert f"methods.relational.initial_weights: {file}: the SHA-256 of the file is" in outcome.err
    entry.update(path="conv4-cifar10-simcrl")
    write_params(project_copy, change)
    assert "conv4-cifar10-simcrl does not exist and is not the name of released weights" in rr(*PRETRAIN).err


class Stop(Exception):
    """Raised by a callback."""


def test_on_step_receives_views_replaces_progress_and_can_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = []

    def on_step(num_views: int) -> None:
        views.append(num_views)
        if len(views) == 5:
            raise Stop

    job = Job(golden.PARAMS.datasets["shapes"], "conv4", golden.small_config("simclr"), 10, 1, "float32",
              golden.NO_DYNAMICS, "test")  # fmt: skip
    outputs = PretrainFolder("shapes", "conv4", "simclr", 1, tmp_path)
    data = golden.write_images(tmp_path / "train.beton", 80)
    with pytest.raises(Stop):
        pretrain(job, data, outputs, device="cpu", threads=1, on_step=on_step)
    assert views == [64, 64, 32, 64, 64]
    assert capsys.readouterr().err == ""
    assert not outputs.weights.exists()


def test_untrained_run_has_an_empty_file(project_copy: Path, rr: RunRr) -> None:
    command = [argument.replace("relational", "random") for argument in PRETRAIN]
    assert rr(*command).code == 0
    assert load_file("runs/pretrain/shapes/conv4/random/1/last_epoch.safetensors") == {}
