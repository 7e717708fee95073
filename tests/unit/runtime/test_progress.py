"""Tests of progress lines: elapsed time, rates, the time left, and the display on a terminal."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rr.runtime import progress
from rr.runtime.progress import Progress


class Clock:
    """A clock that only `sleep` advances. `sleep` also updates the newest `Progress`, in place of the thread."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            progress._active[-1]._update(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of `rr.runtime.progress`, and keep its threads from updating the display."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 1000.0)
    return clock


def run_units(clock: Clock, name: str, total: int | None, unit: str, seconds: float, count: int = 1) -> None:
    with Progress(name, total, unit) as bar:
        done = 0
        while done < (total or 10 * count):
            clock.sleep(seconds)
            bar.advance(count)
            done += count


def test_slow_units_have_seconds_per_unit(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run_units(clock, "evaluate", 5, "epochs", 12)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: 0%, 2 s elapsed",
        "evaluate: 0%, 12 s elapsed",
        "evaluate: 20%, 22 s elapsed",
        "evaluate: 40%, 32 s elapsed",
        "evaluate: 60%, 12 s/epoch, 24 s left",
        "evaluate: 80%, 12 s/epoch, 12 s left",
        "evaluate: 100%, 5 epochs in 60 s",
    ]


def test_first_unit_does_not_affect_the_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("convert", 6000, "images") as bar:
        clock.sleep(60)  # such as the compilation of kernels
        for _ in range(6000):
            bar.advance(1)
            clock.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    estimates = [re.search(r", 100 images/s, (\d+) s left", line) for line in lines]
    assert [int(match[1]) for match in estimates if match] == [48, 38, 28, 18, 8]
    assert lines[-1] == "convert: 100%, 6,000 images in 2 min"


def test_last_line_does_not_count_units_of_an_earlier_process(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", 100, "views") as bar:
        bar.skip(60)
        clock.sleep(3)
        bar.advance(40)
    assert capsys.readouterr().err.splitlines() == [
        "pretrain: 60%, 2 s elapsed",
        "pretrain: 100%, 40 views in 3 s",
    ]


def test_rate_is_that_of_the_last_part(clock: Clock) -> None:
    with Progress("pretrain", 10**6, "views") as bar:
        for seconds in (0.1, 1.0):
            for _ in range(400):
                clock.now += seconds
                bar.advance(1)
        assert bar.rate == pytest.approx(1)
        assert len(bar._samples) < 150
        assert bar.seconds_left == pytest.approx(10**6 - 800)


def test_unknown_total_is_shown_as_a_count(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run_units(clock, "fetch", None, "images", 2, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "fetch: 0 images, 2 s elapsed",
        "fetch: 5,000 images, 500 images/s",
        "fetch: 10,000 images in 20 s",
    ]


def test_short_work_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run_units(clock, "convert", 10, "images", 0.19)
    assert capsys.readouterr().err == ""


def test_innermost_progress_is_shown_and_no_line_twice(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("evaluate"):
        clock.sleep(3)
        with Progress("evaluate", 100, "images", note="features") as bar:
            clock.sleep(3)
            bar.advance(100)
        with Progress("evaluate", 2, "epochs") as bar:
            clock.sleep(3)
            bar.advance(2)
        clock.sleep(8)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: 2 s elapsed",
        "evaluate: 0%, 5 s elapsed, features",
        "evaluate: 100%, 100 images in 3 s, features",
        "evaluate: 16 s elapsed",
    ]


def test_error_prints_no_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        with Progress("convert", 10, "images"):
            clock.sleep(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert capsys.readouterr().err.splitlines() == ["convert: 0%, 2 s elapsed"]
    assert progress._active == []


def test_progress_in_a_suspended_generator_ends_with_the_outer_one(clock: Clock) -> None:
    def count() -> Iterator[int]:
        with Progress("fetch", 3, "images"):
            yield 1

    with Progress("fetch"):
        suspended = count()
        next(suspended)
        assert len(progress._active) == 2
    assert progress._active == []
    suspended.close()


@pytest.mark.parametrize("change", [-(10.0**6), 10.0**6])
def test_clock_change_does_not_matter(clock: Clock, change: float) -> None:
    with Progress("convert", 100, "images") as bar:
        for _ in range(10):
            clock.sleep(1)
            bar.advance(1)
            clock.now += change
        assert bar.describe()


def test_closed_output_does_not_end_the_work() -> None:
    code = (
        "import os, time; from rr.runtime import progress; progress.SECONDS_BEFORE_FIRST_LINE = 0\n"
        "os.close(2)\n"
        "with progress.Progress('convert', 10, 'images') as bar: time.sleep(1); bar.advance(10)\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n")


def run_on_terminal(code: str, environment: dict[str, str]) -> str:
    """Run Python code whose stderr is a terminal, and return what it writes there."""
    terminal, stderr = os.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=stderr, env=os.environ | environment)
    os.close(stderr)
    output = b""
    try:
        while chunk := os.read(terminal, 4096):
            output += chunk
    except OSError:  # the end of the process
        pass
    os.close(terminal)
    assert process.wait() == 0
    return output.decode()


@pytest.mark.parametrize(
    ("environment", "has_bar"),
    [({}, True), ({"WORLD_SIZE": "2", "RANK": "0"}, True), ({"WORLD_SIZE": "2", "RANK": "1"}, False)],
)
def test_terminal_shows_a_bar_in_the_main_process(environment: dict[str, str], has_bar: bool) -> None:
    code = (
        "import time; from rr.runtime.progress import Progress\n"
        "with Progress('evaluate'):\n"
        "    with Progress('evaluate', 10, 'images', note='features') as bar: bar.advance(10); time.sleep(0.6)\n"
        "    time.sleep(0.6)"
    )
    output = run_on_terminal(code, {"TERM": "xterm", "COLUMNS": "100"} | environment)
    assert ("\x1b[?25l" in output) == has_bar
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h")  # the cursor is visible at the end
    if has_bar:
        assert re.search(r"100%, \d s elapsed, features", output)
        assert output.rstrip().endswith("\x1b[2K")  # the bar without a total is removed


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fetch", "convert"])
def test_stage_without_units_prints_the_elapsed_time(project: Path, command: str) -> None:
    """A stage that counts no units takes a long time."""
    code = (
        "import sys, time; from rr import cli, commands; sys.argv = ['rr', *sys.argv[1:]]\n"
        f"run = commands.run_{command}\n"
        f"commands.run_{command} = lambda *arguments: (time.sleep(2.5), 'done')[1]\n"
        "cli.run()"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--dataset", "shapes"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start > 2
    assert done.stderr == f"{command}: 2 s elapsed\n"
    assert done.stdout == "done\n"
