"""Time programs that take turns. A turn consists of one or more steps.

Each program runs in its own process group, together with its threads and worker processes. While one program works, the
other process groups are stopped (SIGSTOP), so that none of their processes uses CPU time, not even a data loader that
is filling its queue. A program keeps its state while it is stopped.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from rr.bench.measure import Timing, cpu_seconds_with_children

_PREFIX = "turn "  # prefix of the lines in which a program reports how long its turns took


class StepGate:
    """Block the training loop of a program until its next turn.

    The program uses this class; the benchmark uses `WorkerProcess`. The program exits when the benchmark closes its
    standard input.

    Each turn consists of `steps` steps.
    """

    def __init__(self, steps: int = 1) -> None:
        self._steps = self._steps_left = steps
        self._wait_for_turn()

    def step_done(self, _num_views: int = 0) -> None:
        """Count a step. After the last step of a turn, report how long the turn took and wait for the next one.

        The argument is ignored. It exists so that the training loop can use this method as a callback.
        """
        self._steps_left -= 1
        if self._steps_left:
            return
        self._steps_left = self._steps
        seconds = [time.perf_counter() - self._wall, cpu_seconds_with_children() - self._cpu]
        print(_PREFIX + json.dumps(seconds), flush=True)
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not sys.stdin.readline():
            # Worker processes end with their parent, so there is nothing to clean up.
            raise SystemExit
        self._wall, self._cpu = time.perf_counter(), cpu_seconds_with_children()


class WorkerProcess:
    """A program that the benchmark starts, runs turn by turn, and kills. It must use a `StepGate`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        # The program has a process group of its own, but in the same session. If this process dies, the system
        # therefore wakes the stopped program (SIGCONT) and ends it (SIGHUP).
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip

    def run_turn(self) -> Timing:
        """Let the program work for one turn, stop it, and return how long the turn took.

        Raises:
            RuntimeError: if the program ends before it completes the turn.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_PREFIX):
                self._send_signal(signal.SIGSTOP)
                return Timing(*json.loads(line.removeprefix(_PREFIX)))
        code = self._process.wait()
        raise RuntimeError(
            f"the benchmark program {' '.join(self._command)} ended with exit code {code} before it completed a turn: "
            "fix the error that it printed above or, if it printed none, check whether the machine has enough memory"
        )

    def kill(self) -> None:
        """Kill the program's process group."""
        self._send_signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def start_workers(commands: Sequence[Sequence[str]]) -> Iterator[list[WorkerProcess]]:
    """Start one program per command, and kill the programs when the context exits."""
    workers: list[WorkerProcess] = []
    try:
        for command in commands:
            workers.append(WorkerProcess(command))
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def time_programs(commands: Sequence[Sequence[str]], repeats: int, warmup: int) -> list[list[Timing]]:
    """Let the programs take turns and return how long the turns took, as one list per program.

    First, each program runs `warmup` untimed turns. Then the programs alternate for `repeats` timed turns each.

    Raises:
        RuntimeError: if a program ends early.
    """
    with start_workers(commands) as workers:
        for worker in workers:
            for _ in range(warmup):
                worker.run_turn()
        turns = [[worker.run_turn() for worker in workers] for _ in range(repeats)]
    return [list(timings) for timings in zip(*turns, strict=True)]
