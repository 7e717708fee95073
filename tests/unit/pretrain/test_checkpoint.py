"""Tests of checkpoints: there is always a good one on disk, and damage is detected."""

import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, RunRr, pretrain_command, write_params
from torch import nn

from rr import paths
from rr.pretrain import checkpoint
from rr.pretrain.checkpoint import TrainState
from rr.workflow.records import load_record

CHECKPOINT = Path("runs/resume/shapes/conv4/relational/1/resume.pt")


class Training:
    """A small model and its optimizer; each call to `save` changes both."""

    def __init__(self, fingerprint: str = "fingerprint") -> None:
        self.fingerprint = fingerprint
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.state = TrainState()

    def save(self, path: Path, epoch: int) -> bool:
        self.state.epoch = epoch
        self.model.zero_grad()
        self.model(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        return checkpoint.save_checkpoint(path, self.fingerprint, self.state, self.model, self.optimizer)

    def weights(self) -> list[float]:
        return self.model.weight.flatten().tolist()


def load(path: Path, fingerprint: str = "fingerprint") -> tuple[int, list[float]]:
    """Return the epoch and the weights that a new training run loads."""
    training = Training()
    state = checkpoint.load_checkpoint(path, fingerprint, training.model, training.optimizer, 4)
    return state.epoch, training.weights()


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resume.pt"


def test_previous_checkpoint_is_kept(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, weights = Training(), {}
    assert load(path)[0] == 0
    assert capsys.readouterr().err == ""
    for epoch in (1, 2, 3):
        training.save(path, epoch)
        weights[epoch] = training.weights()
    assert load(path) == (3, weights[3])
    path.unlink()  # as if the process had been killed between the two renames of `save_checkpoint`
    assert load(path) == (2, weights[2])
    training.save(path, 4)
    assert load(paths.previous_checkpoint(path)) == (2, weights[2])
    checkpoint.finish_checkpoints(path, "fingerprint", "")
    assert list(path.parent.iterdir()) == []


def test_damaged_checkpoint_is_detected_and_the_previous_one_loaded(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, rng = Training(), random.Random(5)
    training.save(path, 1)
    previous_weights = training.weights()
    training.save(path, 2)
    intact = path.read_bytes()
    for _ in range(200):
        content = bytearray(intact)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        assert load(path) == (1, previous_weights)
        output = capsys.readouterr().err
        assert f"{path} is damaged and is not used\npretrain: continuing in epoch 2 after step 0" in output
    for length in (0, 10, 31, 32, len(intact) // 2, len(intact) - 1):
        path.write_bytes(intact[:length])
        assert load(path) == (1, previous_weights)
    paths.previous_checkpoint(path).write_bytes(b"damaged")
    assert load(path)[0] == 0
    assert "starting from the beginning" in capsys.readouterr().err


def test_checkpoint_of_another_run_is_kept_until_that_run_continues(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {}
    for fingerprint, epochs in (("1" * 64, (1, 2, 3)), ("2" * 64, (1, 2)), ("3" * 64, ())):
        checkpoint.choose_checkpoint(path, fingerprint, "", 4)
        assert load(path, fingerprint)[0] == 0
        training = Training(fingerprint)
        for epoch in epochs:
            training.save(path, epoch)
        paths.last_epoch_start(path, fingerprint).touch()
        weights[fingerprint] = training.weights()
    kept = paths.kept_checkpoint(path, "2" * 64)
    message = f"the earlier checkpoint is kept as {kept}, to be used again if you undo the change; this run starts"
    assert message in capsys.readouterr().err
    for fingerprint, epoch in (("1" * 64, 3), ("2" * 64, 2), ("1" * 64, 3)):
        checkpoint.choose_checkpoint(path, fingerprint, "", 4)
        assert load(path, fingerprint) == (epoch, weights[fingerprint])
    checkpoint.finish_checkpoints(path, "1" * 64, "")
    assert {file.name for file in path.parent.iterdir()} == {kept.name, f"last_epoch.{'2' * 16}.safetensors"}
    checkpoint.choose_checkpoint(path, "2" * 64, "", 4)
    assert load(path, "2" * 64) == (2, weights["2" * 64])
    checkpoint.finish_checkpoints(path, "2" * 64, "")
    assert list(path.parent.iterdir()) == []


def test_damaged_checkpoint_does_not_prevent_the_use_of_a_kept_one(path: Path) -> None:
    first = Training("1" * 64)
    for epoch in (1, 2):
        first.save(path, epoch)
    checkpoint.choose_checkpoint(path, "2" * 64, "", 4)
    Training("2" * 64).save(path, 1)
    path.write_bytes(b"damaged")
    checkpoint.choose_checkpoint(path, "1" * 64, "", 4)
    assert load(path, "1" * 64) == (2, first.weights())


def test_previous_checkpoint_of_another_run_is_kept_if_it_is_the_only_one(path: Path) -> None:
    training = Training("1" * 64)
    for epoch in (1, 2):
        training.save(path, epoch)
    path.unlink()
    checkpoint.choose_checkpoint(path, "2" * 64, "", 4)
    assert load(paths.kept_checkpoint(path, "1" * 64), "1" * 64)[0] == 1


def test_most_advanced_checkpoint_with_other_epochs_is_used(path: Path) -> None:
    def save(fingerprint: str, epoch: int, without_epochs: str) -> list[float]:
        training = Training(fingerprint)
        training.state.epoch = epoch
        with torch.no_grad():
            training.model.weight += epoch
        checkpoint.save_checkpoint(
            path, fingerprint, training.state, training.model, training.optimizer, without_epochs
        )
        return training.weights()

    def choose(fingerprint: str, num_epochs: int) -> tuple[int, list[float]]:
        checkpoint.choose_checkpoint(path, fingerprint, "same", num_epochs)
        return load(path, fingerprint)

    finished = save("1" * 64, 10, "same")
    checkpoint.finish_checkpoints(path, "1" * 64, "same")
    assert paths.finished_checkpoint(path, "same").exists()
    unfinished = save("2" * 64, 30, "same")
    save("3" * 64, 40, "different")
    assert choose("4" * 64, 10)[0] == 0  # the finished run is already after the last of ten epochs
    for num_epochs, expected in ((11, (10, finished)), (30, (10, finished)), (31, (30, unfinished))):
        path.unlink(missing_ok=True)
        assert choose("4" * 64, num_epochs) == expected
    path.unlink()
    # The checkpoint of the same run is used although the last epoch has started, unless another is more advanced.
    assert choose("2" * 64, 30) == (30, unfinished)
    # A run that has finished before is repeated, and uses only its own checkpoint.
    path.unlink()
    save("4" * 64, 31, "same")
    checkpoint.finish_checkpoints(path, "4" * 64, "same")
    assert choose("4" * 64, 31)[0] == 0
    repeated = save("4" * 64, 5, "same")
    assert choose("5" * 64, 40)[0] == 31
    assert choose("4" * 64, 31) == (5, repeated)


def test_checkpoints_of_other_runs_are_kept_when_a_run_finishes(path: Path) -> None:
    for fingerprint, epoch, without_epochs in (("1", 3, "same"), ("2", 5, "same"), ("3", 2, "different")):
        training = Training(fingerprint * 64)
        training.state.epoch = epoch
        checkpoint.save_checkpoint(
            path, training.fingerprint, training.state, training.model, training.optimizer, without_epochs
        )
        checkpoint.choose_checkpoint(path, "4" * 64, "", 4)
    paths.finished_checkpoint(path, "earlier").touch()
    training = Training("4" * 64)
    training.state.epoch = 4
    checkpoint.save_checkpoint(path, training.fingerprint, training.state, training.model, training.optimizer, "same")
    checkpoint.finish_checkpoints(path, "4" * 64, "same")
    kept = [paths.kept_checkpoint(path, number * 64).name for number in "123"]
    assert {file.name for file in path.parent.iterdir()} == {*kept, paths.finished_checkpoint(path, "same").name}


def test_checkpoint_with_other_keys_is_not_used(path: Path) -> None:
    """An earlier version of this project may have written it."""
    earlier = paths.kept_checkpoint(path, "1" * 64)
    checkpoint._write_checkpoint(earlier, {"fingerprint": "1" * 64, "run": {"epoch": 3}})
    checkpoint.choose_checkpoint(path, "2" * 64, "same", 4)
    assert earlier.exists()
    assert not path.exists()


def test_unusable_checkpoints_of_other_runs_are_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, folder = (paths.kept_checkpoint(path, number * 64) for number in "12")
    damaged.write_bytes(b"damaged")
    folder.mkdir()
    checkpoint.choose_checkpoint(path, "3" * 64, "same", 4)
    assert capsys.readouterr().err == (
        f"pretrain: the checkpoint {damaged} is damaged and is not used\n"
        f"pretrain: the checkpoint {folder} cannot be read and is not used (Is a directory)\n"
    )
    assert not path.exists()


def test_state_that_is_not_finite_is_not_saved(path: Path) -> None:
    training = Training()
    assert training.save(path, 1)
    assert training.save(path, 2)
    before = read_all(path.parent)
    training.state.metric_sums = {"loss": torch.tensor([float("nan"), 1.0])}
    assert not training.save(path, 3)
    training.state.metric_sums = {}
    with torch.no_grad():
        training.model.bias[0] = float("inf")
    assert not training.save(path, 3)
    assert read_all(path.parent) == before


def test_other_metrics_may_be_nan(path: Path) -> None:
    training = Training()
    training.state.metric_sums = {"loss": torch.ones(2), "margin": torch.full((2,), torch.nan)}
    assert training.save(path, 3)
    assert load(path)[0] == 3


def test_message_names_the_position(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training()
    for epoch in (3, 4):
        training.save(path, epoch)
        load(path)
    assert capsys.readouterr().err == (
        "pretrain: continuing in epoch 4 after step 0\npretrain: continuing after the last epoch\n"
    )


def test_full_disk_leaves_both_checkpoints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    training.save(path, 1)
    training.save(path, 2)
    before = read_all(path.parent)

    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "open", raise_disk_full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        training.save(path, 3)
    assert read_all(path.parent) == before


def test_finished_run_keeps_only_its_last_checkpoint(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []
    finish_checkpoints = checkpoint.finish_checkpoints

    def list_and_finish(path: Path, *fingerprints: str) -> None:
        files.extend(CHECKPOINT.parent.iterdir())
        finish_checkpoints(path, *fingerprints)

    monkeypatch.setattr(checkpoint, "finish_checkpoints", list_and_finish)
    assert rr(*PRETRAIN).code == 0
    assert {re.sub("[0-9a-f]{16}", "*", path.name) for path in files} == {
        "resume.pt", "resume.previous.pt", "last_epoch.*.safetensors", "history.csv",
    }  # fmt: skip
    (finished,) = CHECKPOINT.parent.iterdir()
    assert re.fullmatch(r"finished\.[0-9a-f]{16}\.pt", finished.name)

    def set_schedule(params: dict) -> None:
        params["methods"]["relational"]["schedule"] = {"kind": "cosine", "warmup_epochs": 0}

    # With this schedule, a run with more epochs could not continue, so nothing is kept.
    write_params(project_copy, set_schedule)
    assert "continuing" not in rr(*PRETRAIN).err
    assert list(CHECKPOINT.parent.iterdir()) == []


def test_only_a_run_with_other_epochs_continues_from_a_finished_run(project_copy: Path, rr: RunRr) -> None:
    def change_epochs(change: int, learning_rate: float = 1.0) -> None:
        def update(params: dict) -> None:
            params["methods"]["relational"]["epochs"] += change
            params["methods"]["relational"]["learning_rate"] *= learning_rate

        write_params(project_copy, update)

    run = paths.PretrainPaths("shapes", "conv4", "relational", 1)
    assert rr(*PRETRAIN).code == 0
    rows = run.history.read_text().splitlines()
    shutil.rmtree(run.folder)
    assert "continuing" not in rr(*PRETRAIN).err  # deleting the outputs still means training again
    change_epochs(1)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 0
    assert f"pretrain: continuing in epoch {len(rows)} after step 0\n" in outcome.err
    assert run.history.read_text().splitlines()[: len(rows)] == rows
    record = load_record(run.folder)
    assert len(record["epoch_seconds"]) == len(rows)
    (earlier,) = record["earlier_sessions"]
    assert record["started"] == earlier["started"]

    def add_variant(params: dict) -> None:
        relational = params["methods"]["relational"]
        params["methods"]["longer"] = {**relational, "epochs": relational["epochs"] + 2}

    write_params(project_copy, add_variant)
    outcome = rr(*pretrain_command("longer"))
    assert outcome.code == 0
    assert f"pretrain: continuing in epoch {len(rows) + 1} after step 0\n" in outcome.err
    shutil.rmtree(replace(run, method="longer").folder)
    assert "continuing" not in rr(*pretrain_command("longer")).err  # this repeats a run that had finished
    change_epochs(1, learning_rate=2.0)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 0
    assert "continuing" not in outcome.err
