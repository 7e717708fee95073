"""The state of an unfinished training on disk: one good copy at every moment, and no damage goes unseen."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers import PRETRAIN, RunRr
from torch import nn

from rr import paths
from rr.pretrain import checkpoint
from rr.pretrain.checkpoint import TrainState

RESUME = Path("runs/resume/shapes/conv4/relational/1/resume.pt")


class Training:
    """A method and an optimiser, small, with a step that changes both."""

    def __init__(self) -> None:
        self.method = nn.Linear(3, 2)
        self.optimiser = torch.optim.Adam(self.method.parameters())
        self.run = TrainState()

    def save(self, file: Path, epoch: int) -> None:
        self.run.epoch = epoch
        self.method.zero_grad()
        self.method(torch.ones(1, 3)).sum().backward()
        self.optimiser.step()
        checkpoint.save_checkpoint(file, "mine", self.run, self.method, self.optimiser, None)

    def weights(self) -> list[float]:
        return self.method.weight.flatten().tolist()


def restored(file: Path, fingerprint: str = "mine") -> tuple[int, list[float]]:
    other = Training()
    run = checkpoint.load_checkpoint(file, fingerprint, other.method, other.optimiser, None)
    return run.epoch, other.weights()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "resume.pt"


def test_the_state_before_the_newest_stays(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, states = Training(), {}
    assert restored(file)[0] == 0
    assert capsys.readouterr().out == ""  # a first run begins without a word
    for epoch in (1, 2, 3):
        training.save(file, epoch)
        states[epoch] = training.weights()
    assert restored(file) == (3, states[3])
    file.unlink()  # as in the instant between the two renames
    assert restored(file) == (2, states[2])
    training.save(file, 4)
    assert restored(paths.previous_checkpoint(file)) == (2, states[2])
    checkpoint.delete_checkpoints(file)
    assert list(file.parent.iterdir()) == []


def test_every_flipped_byte_is_found_and_the_state_before_taken(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, choose = Training(), random.Random(5)
    training.save(file, 1)
    before = training.weights()
    training.save(file, 2)
    whole = file.read_bytes()
    for _ in range(200):
        content = bytearray(whole)
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        file.write_bytes(content)
        assert restored(file) == (1, before)
        assert f"{file} is damaged\npretrain: continuing in epoch 2 at step 0" in capsys.readouterr().out
    for length in (0, 10, 31, 32, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert restored(file) == (1, before)
    paths.previous_checkpoint(file).write_bytes(b"neither")
    assert restored(file)[0] == 0
    assert "beginning again" in capsys.readouterr().out


def test_a_state_of_another_job_is_passed_over(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training()
    training.save(file, 1)
    assert restored(file, "another")[0] == 0
    said = capsys.readouterr().out
    assert "belongs to other parameters, data or code" in said
    assert "beginning again" in said


def test_a_state_that_is_not_finite_replaces_none(file: Path) -> None:
    training = Training()
    training.save(file, 1)
    training.save(file, 2)
    kept = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    training.run.metric_sums = {"loss": torch.tensor([float("nan"), 1.0])}
    training.save(file, 3)
    training.run.metric_sums = {}
    with torch.no_grad():
        training.method.bias[0] = float("inf")
    training.save(file, 3)
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == kept


def test_a_disk_that_is_full_costs_neither_copy(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    training.save(file, 1)
    training.save(file, 2)
    kept = {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        training.save(file, 3)
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == kept


def test_a_run_leaves_neither_copy(converted_project: Path, tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    shutil.copytree(converted_project, folder)
    monkeypatch.chdir(folder)
    seen = []
    forget = checkpoint.delete_checkpoints
    monkeypatch.setattr(checkpoint, "delete_checkpoints", lambda file: (seen.extend(RESUME.parent.iterdir()), forget(file)))
    assert rr(*PRETRAIN).code == 0
    assert {path.name for path in seen} == {"resume.pt", "resume.previous.pt"}
    assert list(RESUME.parent.iterdir()) == []
