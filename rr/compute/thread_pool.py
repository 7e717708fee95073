"""A parallel for-loop for compiled kernels, with a pool of threads that start quickly.

Waking a thread takes about 50 microseconds, so the calling thread also does some of the work instead of waiting for the
others. `concurrent.futures` needs 200 microseconds, which is more than a small mini-batch gains from parallelism. The
pool consists of Python threads. Unlike numba's threads, they can be used from any of the caller's threads, at the same
time as other compiled code, and after a fork.
"""

import itertools
import os
import queue
import threading
from collections.abc import Callable

_loops: "queue.SimpleQueue[_ParallelLoop]" = queue.SimpleQueue()
_workers: list[threading.Thread] = []
_state_lock = threading.Lock()


class _ParallelLoop:
    """The chunks of one call to `parallel_for`, and how many of them are unfinished."""

    def __init__(self, function: Callable[[int, int], object], num_items: int, num_threads: int) -> None:
        self.function = function
        bounds = _shrinking_chunk_bounds(num_items, num_threads)
        self.chunks = iter(list(itertools.pairwise(bounds)))  # next() is atomic under the GIL
        self.num_unfinished = len(bounds) - 1
        self.finished = threading.Lock()
        self.finished.acquire()
        self.error: BaseException | None = None

    def work(self) -> None:
        """Process chunks until none are left, and store the first exception."""
        for start, stop in self.chunks:
            try:
                self.function(start, stop)
            except BaseException as error:  # parallel_for raises it in the calling thread
                self.error = self.error or error
            with _state_lock:
                self.num_unfinished -= 1
                is_last = self.num_unfinished == 0
            if is_last:
                self.finished.release()


def parallel_for(function: Callable[[int, int], object], num_items: int, num_threads: int) -> None:
    """Call `function(start, stop)` on chunks of `range(num_items)` in parallel, and wait until all are finished.

    Args:
        function: a function that takes the start and the stop of a chunk. It must release the GIL most of the time, and
            its results must not depend on how the range is divided into chunks.
        num_items: the length of the range.
        num_threads: the maximum number of threads, including the calling thread.

    Raises:
        BaseException: the first exception that `function` raised, or a KeyboardInterrupt. It is raised only after all
            chunks have finished.
    """
    num_threads = min(num_threads, num_items)
    if num_threads < 2:
        function(0, num_items)
        return
    _ensure_workers(num_threads - 1)
    loop = _ParallelLoop(function, num_items, num_threads)
    for _ in range(num_threads - 1):
        _loops.put(loop)
    try:
        loop.work()
        loop.finished.acquire()
    except BaseException:  # an interrupt; other threads may still write to the caller's arrays
        # Wait with a timeout, because the interrupt may have arrived after a chunk was taken but before it was counted.
        loop.finished.acquire(timeout=10)
        raise
    finally:
        loop.function = lambda start, stop: None  # a worker that wakes up late must not keep the caller's arrays alive
    if loop.error is not None:
        raise loop.error


def _shrinking_chunk_bounds(num_items: int, num_threads: int) -> list[int]:
    """Return the bounds of chunks that shrink toward the end.

    Large chunks need few calls; small ones at the end let all threads finish at about the same time.
    """
    bounds = [0]
    while bounds[-1] < num_items:
        bounds.append(bounds[-1] + max(1, (num_items - bounds[-1]) // (2 * num_threads)))
    return bounds


def _ensure_workers(num_workers: int) -> None:
    """Start threads until the pool has `num_workers` of them."""
    if len(_workers) >= num_workers:
        return
    with _state_lock:
        while len(_workers) < num_workers:
            worker = threading.Thread(target=_worker_loop, args=(_loops,), name="rr-worker", daemon=True)
            _workers.append(worker)
            worker.start()


def _worker_loop(loops: "queue.SimpleQueue[_ParallelLoop]") -> None:
    while True:
        loops.get().work()


def _reset_after_fork() -> None:
    """Discard the threads of the parent process, which do not exist in a forked process."""
    global _loops, _state_lock
    _loops, _state_lock = queue.SimpleQueue(), threading.Lock()
    _workers.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
