"""Ctrl-C, SIGTERM and SIGUSR1: a training is saved at a step's end, and no stage leaves anything half written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import EVALUATE, PRETRAIN, Rr, write_params

from rr.params import load
from rr.pretrain import loop
from rr.runtime import atomic
from rr.runtime.progress import Progress
from rr.workflow import grid

CODES = {
    signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"),
    signal.SIGUSR1: (138, "stopped ahead of a limit"),
}  # fmt: skip
FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
RESUME = Path("runs/resume/shapes/conv4/relational/1/resume.pt")
SUPERVISED = tuple("supervised" if word == "relational" else word for word in PRETRAIN)
SHAPES = ("--dataset", "shapes")
STAGES = {
    "fetch": ("fetch", *SHAPES), "convert": ("convert", *SHAPES), "pretrain": PRETRAIN,
    "evaluate": (*EVALUATE, "linear"), "report": ("report",),
}  # fmt: skip


@pytest.fixture
def ready(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def signals_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the training receive these signals at the end of its n-th step."""

    def arrange(step: int, *numbers: int) -> None:
        steps = 0

        class Signalling(Progress):
            def advance(self, count: int, note: str | None = None) -> None:
                nonlocal steps
                super().advance(count, note)
                steps += count > 0
                if count and steps == step:
                    for number in numbers:
                        os.kill(os.getpid(), number)

        monkeypatch.setattr(loop, "Progress", Signalling)

    return arrange


def artefacts(method: str = "relational") -> dict[str, bytes]:
    run = Path("runs/pretrain/shapes/conv4", method, "1")
    history = Path("runs/history/shapes/conv4", method, "1.csv")
    return {path.name: path.read_bytes() for path in (run / "backbone.safetensors", history)}


# Of an epoch's seven steps: inside one, at its end, and at the very last.
@pytest.mark.parametrize(("step", "place"), [(3, (1, 3)), (7, (2, 0)), (12, (2, 5)), (21, (4, 0))])
@pytest.mark.parametrize("number", list(CODES))
def test_a_training_saves_at_the_end_of_its_step_and_goes_on_to_the_same_bits(
    ready: Path, rr: Rr, signals_at: Callable[..., None], number: int, step: int, place: tuple[int, int]
) -> None:
    rr(*PRETRAIN)
    undisturbed, record = artefacts(), (ready / FOLDER / "run.json").read_bytes()
    signals_at(step, number)
    outcome = rr(*PRETRAIN)
    code, word = CODES[signal.Signals(number)]
    assert outcome.code == code
    assert f"rr: {word}: run the same command again to continue" in outcome.err
    assert f"stopping in epoch {place[0]} at step {place[1]}" in outcome.out
    # Of the earlier training nothing has changed, so its record stays.
    assert (artefacts(), (ready / FOLDER / "run.json").read_bytes()) == (undisturbed, record)
    signals_at(0)
    outcome = rr(*PRETRAIN)
    assert f"continuing in epoch {place[0]} at step {place[1]}" in outcome.out
    assert artefacts() == undisturbed
    assert not list(ready.rglob("*.pt"))


def test_a_second_ctrl_c_does_not_wait(ready: Path, rr: Rr, signals_at: Callable[..., None]) -> None:
    signals_at(3, signal.SIGINT, signal.SIGINT)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 130
    assert "stopping" not in outcome.out
    assert not (ready / RESUME).exists()


def test_what_the_shell_lets_ignore_ctrl_c_still_ignores_it(
    ready: Path, rr: Rr, signals_at: Callable[..., None]
) -> None:
    signals_at(3, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a command with & behind it in a script
    try:
        outcome = rr(*PRETRAIN)
        assert outcome.code == 0
        assert "stopping" not in outcome.out
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_rate_that_falls_goes_on_without_a_warning(
    ready: Path, rr: Rr, signals_at: Callable[..., None], step: int
) -> None:
    """torch warns of a schedule that moves before any step of the optimiser: of an epoch's four, the last is none."""
    write_params(ready, lambda params: params["methods"]["supervised"].update(batch_size=50))
    rr(*SUPERVISED)
    undisturbed = artefacts("supervised")
    signals_at(step, signal.SIGTERM)
    assert rr(*SUPERVISED).code == 143
    signals_at(0)
    outcome = rr(*SUPERVISED)
    assert outcome.code == 0
    assert "Warning" not in outcome.err
    assert artefacts("supervised") == undisturbed


@pytest.mark.parametrize("number", list(CODES))
@pytest.mark.parametrize("stage", list(STAGES))
def test_no_stage_leaves_anything_half_written(
    ready: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    write_params(ready, lambda params: params["grid"].update(method=["relational"], protocol=["linear"]))
    if stage in ("evaluate", "report"):
        assert rr(*PRETRAIN).code == 0
    if stage == "report":
        assert rr(*STAGES["evaluate"]).code == 0
    cell = next(cell for cell in grid.cells(load(ready / "params.yaml")) if cell.stage == stage)
    assert rr(*STAGES[stage]).code == 0
    undisturbed = {path: path.read_bytes() for path in cell.outputs}
    for path in cell.outputs:
        path.unlink()
    fsync = os.fsync

    def signalled(file: int) -> None:
        """The moment at which a file is written and has not yet its name."""
        monkeypatch.setattr(atomic.os, "fsync", fsync)
        os.kill(os.getpid(), number)
        fsync(file)

    monkeypatch.setattr(atomic.os, "fsync", signalled)
    outcome = rr(*STAGES[stage])
    code, word = CODES[signal.Signals(number)]
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        code, f"rr: {word}: run the same command again to continue",
    )  # fmt: skip
    assert not any(path.exists() for path in cell.outputs)
    assert not (cell.folder / "run.json").exists()
    assert not list(ready.rglob(".*.tmp*"))
    assert rr(*STAGES[stage]).code == 0
    if stage != "report":  # its page says when it was made
        assert {path: path.read_bytes() for path in cell.outputs} == undisturbed


def test_a_log_says_where_a_training_goes_on_while_it_runs(ready: Path) -> None:
    write_params(ready, lambda params: params["methods"]["relational"].update(epochs=100000))
    command = [sys.executable, "-m", "rr", *PRETRAIN]
    for condition in (RESUME.exists, lambda: "continuing in epoch" in Path("log").read_text()):
        with open("log", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
        try:
            while not condition():
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
