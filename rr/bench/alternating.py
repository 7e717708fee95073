"""Two programs that take turns, one or several steps each.

Each contestant is a process group: the program, its threads and its worker processes. While one works, the other's
group is stopped as a whole (SIGSTOP), so nothing of it, not even a loader that fills its queue, runs in the other's
time; and each keeps its state, so that its next step begins where its last one ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from rr.bench.measure import Seconds, cpu_seconds

_MARK = "turn "


class Turn:
    """The program's end: `done` after every step; returns when the next may begin, and exits when none is wanted."""

    def __init__(self, steps: int = 1) -> None:
        """A turn is `steps` steps."""
        self._steps = self._left = steps
        self._wait()

    def done(self, units: int = 0) -> None:
        self._left -= 1
        if self._left:
            return
        self._left = self._steps
        seconds = [time.perf_counter() - self._wall, cpu_seconds() - self._cpu]
        print(_MARK + json.dumps(seconds), flush=True)
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            # Nothing is left to tidy up, and worker processes end with their parent.
            raise SystemExit
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()


class Player:
    """The benchmark's end of one program."""

    def __init__(self, command: Sequence[str]) -> None:
        # A group of its own, yet beside this one: the system wakes and ends it if this process dies.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip

    def turn(self) -> Seconds:
        """One turn, then stop."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_MARK):
                self._signal(signal.SIGSTOP)
                return Seconds(*json.loads(line.removeprefix(_MARK)))
        raise RuntimeError(f"a program of the benchmark ended early, with code {self._process.wait()}")

    def end(self) -> None:
        """Kill the whole group."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def players(commands: Sequence[Sequence[str]]) -> Iterator[list[Player]]:
    """Start the programs, and end them whatever happens."""
    started: list[Player] = []
    try:
        for command in commands:
            started.append(Player(command))
        yield started
    finally:
        for player in started:
            player.end()


def alternate(commands: Sequence[Sequence[str]], repeats: int, warmup: int) -> list[list[Seconds]]:
    """`repeats` turns of each program in alternation, after `warmup` turns of each in a row."""
    with players(commands) as started:
        for player in started:
            for _ in range(warmup):
                player.turn()
        turns = [[player.turn() for player in started] for _ in range(repeats)]
    return [list(runs) for runs in zip(*turns, strict=True)]
