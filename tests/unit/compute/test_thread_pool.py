"""Tests of the parallel for-loop: complete, concurrent, nested, with errors and after a fork."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rr.compute.thread_pool import parallel_for


@given(num_items=st.integers(0, 200), num_threads=st.integers(1, 9))
def test_every_item_is_processed_once(num_items: int, num_threads: int) -> None:
    counts = np.zeros(num_items, int)

    def work(start: int, stop: int) -> None:
        counts[start:stop] += 1

    parallel_for(work, num_items, num_threads)
    assert (counts == 1).all()


def test_chunks_run_concurrently() -> None:
    barrier = threading.Barrier(3, timeout=30)

    def work(start: int, stop: int) -> None:
        if start < 3:  # always true: the three chunks have one item each, and wait for each other
            barrier.wait()

    parallel_for(work, 3, 3)


def test_error_is_raised_after_all_chunks_have_ended() -> None:
    sizes = []

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise ZeroDivisionError("first chunk")
        time.sleep(0.01)
        sizes.append(stop - start)

    with pytest.raises(ZeroDivisionError, match="first chunk"):
        parallel_for(work, 12, 2)
    assert sum(sizes) == 12 - 3  # all but the first chunk
    parallel_for(lambda start, stop: None, 12, 2)  # the workers still run


def test_interrupt_is_raised_after_all_chunks_have_ended() -> None:
    """Otherwise, a worker might still write to arrays that the caller has released."""
    barrier, has_ended = threading.Barrier(2, timeout=30), threading.Event()

    def work(start: int, stop: int) -> None:
        barrier.wait()  # the main thread and the worker thread each process one chunk
        if threading.current_thread() is not threading.main_thread():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(0.3)
            has_ended.set()

    with pytest.raises(KeyboardInterrupt):
        parallel_for(work, 2, 2)
    assert has_ended.is_set()


def test_concurrent_and_nested_loops() -> None:
    counts = np.zeros((4, 50), int)

    def caller(row: int) -> None:
        def work(start: int, stop: int) -> None:
            for item in range(start, stop):
                parallel_for(lambda a, b: time.sleep(0), 4, 2)
                counts[row, item] += 1

        parallel_for(work, 50, 3)

    threads = [threading.Thread(target=caller, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert (counts == 1).all()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_starts_its_own_workers() -> None:
    parallel_for(lambda start, stop: None, 8, 4)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            barrier = threading.Barrier(3, timeout=5)  # passes only if three threads run
            parallel_for(lambda start, stop: barrier.wait(), 3, 3)
            code = 0
        finally:
            os._exit(code)
    for _ in range(300):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the forked process does not end")
    assert os.waitstatus_to_exitcode(status) == 0
