"""The `busy` part: training throughput while other programs use all of the machine's cores."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rr.bench.alternating import start_workers
from rr.bench.dataset import prepare_data
from rr.bench.measure import PartResult, Timing, summarize
from rr.bench.settings import IMAGES, VIEWS, Settings
from rr.bench.workers import TrainingTask

_STEPS = 8  # steps per turn; a turn must be much longer than a time slice of the scheduler
# The loop ends with the benchmark, even if the benchmark is killed.
_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def run(settings: Settings) -> PartResult:
    """Compare training on an idle machine with training while one endless loop per core runs (relational, K = 32)."""
    num_loops = os.cpu_count() or 1
    views, batch_size, steps, warmup = (2, 16, 1, 1) if settings.smoke_test else (VIEWS, IMAGES, _STEPS, 2)
    result = PartResult()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(settings, 256 if settings.smoke_test else 12_800, Path(folder))
        for threads in settings.choose_thread_counts(2):
            task = TrainingTask(
                method="relational", views=views, batch_size=batch_size, steps=steps, num_classes=data.num_classes,
                threads=threads, workers=0, beton=str(data.beton), images=str(data.images), labels=str(data.labels),
                scratch=tempfile.mkdtemp(dir=folder),
            )  # fmt: skip
            idle: list[Timing] = []
            busy: list[Timing] = []
            with start_workers([task.make_command("rr")]) as (worker,), start_suspended_busy_loops(num_loops) as loops:
                for _ in range(warmup):
                    worker.run_turn()
                for _ in range(min(settings.steps, 10)):
                    idle.append(worker.run_turn())
                    with running(loops):
                        busy.append(worker.run_turn())
            units = views * batch_size * steps
            names = [("idle machine", units), (f"with {num_loops} endless loops", units)]
            case = summarize(f"relational, K={views}, M={batch_size}", "views", threads, names, [idle, busy])
            ratio = case.candidates[1].ratio
            assert ratio
            case.facts["fraction_kept"] = 1 / ratio.median
            result.cases.append(case)
            kept = f"{100 / ratio.median:.0f}% (quartiles {100 / ratio.q3:.0f} to {100 / ratio.q1:.0f}%)"
            result.notes.append(f"While the loops run, training on {threads} threads keeps {kept} of its throughput.")
    result.notes.append(
        "The loops have the same priority as the training process. They are stopped during every other turn."
    )
    return result


@contextlib.contextmanager
def start_suspended_busy_loops(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start programs that use one core each, and suspend them (SIGSTOP). Kill them when the context exits."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            loops.append(subprocess.Popen([sys.executable, "-c", _LOOP]))
            loops[-1].send_signal(signal.SIGSTOP)
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def running(loops: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Let the programs run within the `with` block."""
    for loop in loops:
        loop.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        for loop in loops:
            loop.send_signal(signal.SIGSTOP)
