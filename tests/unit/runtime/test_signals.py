"""Tests for Ctrl-C, SIGTERM and SIGUSR1: pretraining saves a checkpoint, and no stage leaves incomplete files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from helpers import EVALUATE, EXTRACT, PRETRAIN, RunRr, pretrain_command, select_pairs, wait_until, write_params

from rr import commands
from rr.params import load_params
from rr.pretrain import loop
from rr.runtime import atomic
from rr.runtime.progress import Progress
from rr.runtime.signals import defer_signals
from rr.workflow.stage_runs import iter_stage_runs

EXITS = {
    signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"),
    signal.SIGUSR1: (138, "stopped before a time limit"),
}  # fmt: skip
FOLDER = Path("runs/pretrain/shapes/conv4/relational/1")
CHECKPOINT = Path("runs/resume/shapes/conv4/relational/1/resume.pt")
SUPERVISED = pretrain_command("supervised")
SHAPES = ("--dataset", "shapes")
STAGES = {
    "fetch": ("fetch", *SHAPES), "convert": ("convert", *SHAPES), "pretrain": PRETRAIN,
    "extract": EXTRACT, "evaluate": (*EVALUATE, "linear"), "report": ("report",),
}  # fmt: skip


@pytest.fixture
def signals_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the training receive signals at the end of its n-th step."""

    def send_signals(step: int, *numbers: int) -> None:
        steps = 0

        class SignalingProgress(Progress):
            def advance(self, count: int, note: str | None = None) -> None:
                nonlocal steps
                super().advance(count, note)
                steps += count > 0
                if count and steps == step:
                    for number in numbers:
                        os.kill(os.getpid(), number)

        monkeypatch.setattr(loop, "Progress", SignalingProgress)

    return send_signals


def read_outputs(method: str = "relational") -> dict[str, bytes]:
    run = Path("runs/pretrain/shapes/conv4", method, "1")
    history = Path("runs/history/shapes/conv4", method, "1.csv")
    return {path.name: path.read_bytes() for path in (run / "backbone.safetensors", history)}


# An epoch has seven steps. A signal arrives within an epoch, at the end of one, or at the last step of all.
STOPS = [(step, f"in epoch {epoch} after step {done}") for step, epoch, done in ((3, 1, 3), (7, 2, 0), (12, 2, 5))]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "stop"), select_pairs(EXITS, [*STOPS, (21, "after the last epoch")]))
def test_interrupted_pretraining_continues_to_the_same_bits(
    project_copy: Path,
    rr: RunRr,
    signals_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    stop: tuple[int, str],
) -> None:
    step, position = stop
    rr(*PRETRAIN)
    expected, record = read_outputs(), (project_copy / FOLDER / "run.json").read_bytes()
    monkeypatch.setattr(
        commands, "find_mismatches", lambda run: ["the code has changed"]
    )  # so that the stage runs again
    signals_at(step, number)
    outcome = rr(*PRETRAIN)
    code, message = EXITS[signal.Signals(number)]
    assert outcome.code == code
    assert f"rr: {message}: run the same command again to continue" in outcome.err
    assert f"stopping {position}; saved {CHECKPOINT}" in outcome.err
    # The outputs of the first training have not changed, so their record is kept.
    assert (read_outputs(), (project_copy / FOLDER / "run.json").read_bytes()) == (expected, record)
    signals_at(0)
    outcome = rr(*PRETRAIN)
    assert f"continuing {position}\n" in outcome.err
    assert read_outputs() == expected
    assert not list(project_copy.rglob("resume*.pt"))


def test_second_ctrl_c_ends_at_once(project_copy: Path, rr: RunRr, signals_at: Callable[..., None]) -> None:
    signals_at(3, signal.SIGINT, signal.SIGINT)
    outcome = rr(*PRETRAIN)
    assert outcome.code == 130
    assert "stopping" not in outcome.err
    assert not (project_copy / CHECKPOINT).exists()


def test_second_ctrl_c_is_collected_if_it_must_not_end_the_program() -> None:
    with defer_signals(second_sigint_raises=False) as received:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT, signal.SIGINT]


def test_ignored_ctrl_c_stays_ignored(project_copy: Path, rr: RunRr, signals_at: Callable[..., None]) -> None:
    signals_at(3, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a background command (&) in a script
    try:
        outcome = rr(*PRETRAIN)
        assert outcome.code == 0
        assert "stopping" not in outcome.err
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("step", [3, 4, 7])
def test_continuing_with_a_learning_rate_schedule_gives_no_warning(
    project_copy: Path, rr: RunRr, signals_at: Callable[..., None], step: int
) -> None:
    """An epoch has four steps. torch's own schedulers warn if they advance before the optimizer makes a step."""
    write_params(project_copy, lambda params: params["methods"]["supervised"].update(batch_size=50))
    rr(*SUPERVISED)
    expected = read_outputs("supervised")
    shutil.rmtree("runs")
    signals_at(step, signal.SIGTERM)
    assert rr(*SUPERVISED).code == 143
    signals_at(0)
    outcome = rr(*SUPERVISED)
    assert outcome.code == 0
    assert "Warning" not in outcome.err
    assert read_outputs("supervised") == expected


@pytest.mark.parametrize(("stage", "number"), select_pairs(STAGES, EXITS))
def test_interrupted_stage_leaves_no_incomplete_files(
    project_copy: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    write_params(project_copy, lambda params: params["grid"].update(method=["relational"], protocol=["linear"]))
    if stage in ("extract", "evaluate", "report"):
        assert rr(*PRETRAIN).code == 0
    if stage in ("evaluate", "report"):
        assert rr(*EXTRACT).code == 0
    if stage == "report":
        assert rr(*STAGES["evaluate"]).code == 0
    run = next(run for run in iter_stage_runs(load_params(project_copy / "params.yaml")) if run.stage == stage)
    assert rr(*STAGES[stage]).code == 0
    expected = {path: path.read_bytes() for path in run.outputs}
    record = (run.folder / "run.json").read_bytes()
    for path in run.outputs:
        path.unlink()
    fsync = os.fsync

    def send_signal_and_fsync(file: int) -> None:
        """Send the signal when the temporary file is complete but has not been renamed yet."""
        monkeypatch.setattr(atomic.os, "fsync", fsync)
        os.kill(os.getpid(), number)
        fsync(file)

    monkeypatch.setattr(atomic.os, "fsync", send_signal_and_fsync)
    outcome = rr(*STAGES[stage])
    code, message = EXITS[signal.Signals(number)]
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        code, f"rr: {message}: run the same command again to continue",
    )  # fmt: skip
    assert not any(path.exists() for path in run.outputs)
    assert (run.folder / "run.json").read_bytes() == record
    assert not list(project_copy.rglob(".*.tmp*"))
    assert rr(*STAGES[stage]).code == 0
    if stage != "report":  # the page contains times
        assert {path: path.read_bytes() for path in run.outputs} == expected


@pytest.mark.slow
def test_log_shows_where_pretraining_continues(project_copy: Path) -> None:
    write_params(project_copy, lambda params: params["methods"]["relational"].update(epochs=100000))
    command = [sys.executable, "-m", "rr", *PRETRAIN]
    for condition in (CHECKPOINT.exists, lambda: "continuing in epoch" in Path("log").read_text()):
        with open("log", "w") as log:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            wait_until(condition, process)
        finally:
            process.kill()
            process.wait()


_STAGE = """
import os, pathlib, time
from rr.runtime.signals import defer_signals, exit_for_signal
with defer_signals() as received:
    pathlib.Path("pid").write_text(str(os.getpid()))
    pathlib.Path("started").touch()
    while not received:
        time.sleep(0.01)
    time.sleep(0.5)
    pathlib.Path("saved").touch()
exit_for_signal(received[0])
"""
_ENGINE = """
import signal, subprocess, sys
stage = subprocess.Popen([sys.executable, "stage.py"])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does while it waits for a stage
sys.exit(stage.wait())
"""
_COMMAND = """
import os, sys
from rr.runtime import signals
signals.install_handlers()
sys.exit(signals.run_command([sys.executable, "engine.py"], os.environ))
"""


StartCommand = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartCommand]:
    """Return a function that starts a command, which runs an engine with one stage, and waits until the stage runs.

    The current folder is changed to a new one. Processes that are still running after the test are killed.
    """
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:

        def start(ignored: int | None = None) -> subprocess.Popen[str]:
            Path("stage.py").write_text(_STAGE)
            Path("engine.py").write_text(_ENGINE)
            lines = ["import signal"]
            for number, handler in ((signal.SIGINT, "default_int_handler"), (signal.SIGHUP, "SIG_DFL")):
                # The tests may run with nohup or in the background.
                lines.append(f"signal.signal({int(number)}, signal.{'SIG_IGN' if number == ignored else handler})")
            command = [sys.executable, "-c", "\n".join([*lines, _COMMAND])]
            # The process has its own group in its parent's session. With setsid, the group would be orphaned, because
            # no parent would be in another group of the same session, and SIGTSTP is ignored in an orphaned group.
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0)
            stack.enter_context(process)
            stack.callback(process.kill)
            stack.callback(kill_engine, tmp_path)
            wait_until(Path("started").exists, process)
            return process

        yield start


def kill_engine(folder: Path) -> None:
    """Kill the process group of the engine and its stage, if the stage still runs in `folder`."""
    with suppress(OSError, ValueError):
        stage = int((folder / "pid").read_text())
        # If the stage has ended, another process may have its number.
        if os.path.samefile(f"/proc/{stage}/cwd", folder):
            os.killpg(os.getpgid(stage), signal.SIGKILL)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGINT], -signal.SIGINT),
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 143),
        ([signal.SIGUSR1, signal.SIGTERM], 138),
        ([signal.SIGTERM, signal.SIGTERM], 143),
    ],
)
def test_signal_to_a_command_that_runs_an_engine_reaches_the_stage_once(
    start_command: StartCommand, numbers: list[int], code: int
) -> None:
    """Only the command receives the signals. It must end after the engine, and the engine after the stage."""
    process = start_command()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    _, error = process.communicate(timeout=60)
    assert Path("saved").exists(), error
    assert process.returncode == code


def test_second_ctrl_c_ends_the_stage_of_an_engine_at_once(start_command: StartCommand) -> None:
    process = start_command()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert not Path("saved").exists()


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_ignored_signal_does_not_end_the_stage_of_an_engine(start_command: StartCommand, ignored: int) -> None:
    """As with nohup, or for a background command in a script. The stage still receives other signals."""
    process = start_command(ignored)
    process.send_signal(ignored)
    time.sleep(0.3)
    assert process.poll() is None
    assert not Path("saved").exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, Path("saved").exists()) == (143, True)


def test_suspended_command_suspends_its_stage(start_command: StartCommand) -> None:
    process = start_command()
    stage = int(Path("pid").read_text())

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    process.send_signal(signal.SIGTSTP)
    wait_until(lambda: state(process.pid) == state(stage) == "T")
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: "T" not in (state(process.pid), state(stage)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, Path("saved").exists()) == (143, True)
