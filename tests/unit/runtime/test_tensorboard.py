"""Tests of TensorBoard event files, read back with TensorBoard's own reader."""

import csv
import math
import sys
from pathlib import Path

import pytest
from helpers import PRETRAIN, RunRr, interrupt_at

from rr.errors import UserError

ROWS = [
    {"epoch": 1, "loss": 2.5, "accuracy": 0.25, "knn": math.nan},
    {"epoch": 2, "loss": 1.5, "accuracy": 0.5, "knn": 0.75},
    {"epoch": 3, "loss": 0.5, "accuracy": 1.0, "knn": math.nan},
]


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_folder_is_checked_before_training() -> None:
    from rr.runtime.tensorboard import EventWriter

    with pytest.raises(UserError, match="--tensorboard: no file can be written to /proc/x: use another folder"):
        EventWriter(Path("/proc/x"))


def test_each_epoch_is_written_once_even_after_an_interruption(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from rr.runtime.tensorboard import EventWriter

    writer = EventWriter(tmp_path)
    writer.write(ROWS[:1])
    assert read_scalars(tmp_path) == {"loss": [(1, 2.5)], "accuracy": [(1, 0.25)]}
    writer.write(ROWS[:2])
    EventWriter(tmp_path)  # of a process that ends before its first epoch
    assert len(read_scalars(tmp_path)["loss"]) == 2
    writer = EventWriter(tmp_path)  # the process that continues the run
    writer.write(ROWS[:2])
    writer.write(ROWS)
    assert read_scalars(tmp_path) == {
        "loss": [(1, 2.5), (2, 1.5), (3, 0.5)],
        "accuracy": [(1, 0.25), (2, 0.5), (3, 1.0)],
        "knn": [(2, 0.75)],
    }


def test_interrupted_run_has_one_value_per_epoch(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    command = (*PRETRAIN, "--tensorboard", "events")
    folder = project_copy / "events/shapes/conv4/relational/1"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, 0)
        assert rr(*command).code == 130
    assert [step for step, _ in read_scalars(folder)["loss"]] == [1, 2]
    assert "continuing in epoch 3" in rr(*command).err
    with open("runs/history/shapes/conv4/relational/1.csv", newline="") as file:
        history = list(csv.DictReader(file))
    scalars = read_scalars(folder)
    for name in history[0].keys() - {"epoch"}:
        assert [step for step, _ in scalars[name]] == [1, 2, 3]
        assert [value for _, value in scalars[name]] == pytest.approx([float(row[name]) for row in history])


def test_missing_package_is_an_error_before_the_training(
    project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert rr("fetch", "--dataset", "shapes").code == rr("convert", "--dataset", "shapes").code == 0
    outcome = rr(*PRETRAIN, "--tensorboard", "events")
    assert outcome.code == 2
    assert "pip install 'relational-reasoning[tensorboard]'" in outcome.err
    assert not Path("runs").exists()
