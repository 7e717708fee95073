"""Tiles of a compiled kernel shared between threads: the caller works too, and helpers join as they wake.

Waking a thread costs about 50 microseconds here, so a caller that waits for others to do everything would lose more
than a small mini-batch gains; `concurrent.futures` takes 200. Python threads rather than numba's, because they may be
used from any thread of the caller, beside other compiled code, and after a fork.
"""

import itertools
import os
import queue
import threading
from collections.abc import Callable

_jobs: "queue.SimpleQueue[_Job]" = queue.SimpleQueue()
_helpers: list[threading.Thread] = []
_guard = threading.Lock()


class _Job:
    """One call's tiles, and what is left of them."""

    def __init__(self, function: Callable[[int, int], object], tiles: int, threads: int) -> None:
        self.function = function
        cuts = _cuts(tiles, threads)
        self.pieces = iter(list(itertools.pairwise(cuts)))  # taken one at a time under Python's lock
        self.left = len(cuts) - 1
        self.finished = threading.Lock()
        self.finished.acquire()
        self.error: BaseException | None = None

    def work(self) -> None:
        for start, stop in self.pieces:
            try:
                self.function(start, stop)
            except BaseException as error:  # the caller's to raise
                self.error = self.error or error
            with _guard:
                self.left -= 1
                last = self.left == 0
            if last:
                self.finished.release()


def share(function: Callable[[int, int], object], tiles: int, threads: int) -> None:
    """Call `function(start, stop)` on pieces of `range(tiles)`, in up to `threads` threads; return when all is done.

    The function must release Python's lock for most of its time, and give the same result however the range is cut.
    Raises what the function raises first, and KeyboardInterrupt, when all pieces have ended.
    """
    threads = min(threads, tiles)
    if threads < 2:
        function(0, tiles)
        return
    _need(threads - 1)
    job = _Job(function, tiles, threads)
    for _ in range(threads - 1):
        _jobs.put(job)
    try:
        job.work()
        job.finished.acquire()
    except BaseException:  # an interrupt: others may still write to the caller's arrays
        # Not for ever: the interrupt may have come between taking a piece and counting it.
        job.finished.acquire(timeout=10)
        raise
    finally:
        job.function = _nothing  # a helper that comes late must not keep the arrays alive
    if job.error is not None:
        raise job.error


def _nothing(start: int, stop: int) -> None:
    """What a job is once it has ended."""


def _cuts(tiles: int, threads: int) -> list[int]:
    """Pieces that shrink: large ones cost few calls, small ones at the end let all threads finish together."""
    cuts = [0]
    while cuts[-1] < tiles:
        cuts.append(cuts[-1] + max(1, (tiles - cuts[-1]) // (2 * threads)))
    return cuts


def _need(helpers: int) -> None:
    if len(_helpers) >= helpers:
        return
    with _guard:
        while len(_helpers) < helpers:
            helper = threading.Thread(target=_help, args=(_jobs,), name="rr-helper", daemon=True)
            _helpers.append(helper)
            helper.start()


def _help(jobs: "queue.SimpleQueue[_Job]") -> None:
    while True:
        jobs.get().work()


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and must not wait for them."""
    global _jobs, _guard
    _jobs, _guard = queue.SimpleQueue(), threading.Lock()
    _helpers.clear()


os.register_at_fork(after_in_child=_after_fork)
