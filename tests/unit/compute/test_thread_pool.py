"""Sharing tiles between threads: every tile once, errors to the caller, callers beside each other, after a fork."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rr.compute.thread_pool import share


@given(tiles=st.integers(0, 200), threads=st.integers(1, 9))
def test_every_tile_is_done_once(tiles: int, threads: int) -> None:
    done = np.zeros(tiles, int)

    def work(start: int, stop: int) -> None:
        done[start:stop] += 1

    share(work, tiles, threads)
    assert (done == 1).all()


def test_several_threads_work_at_once() -> None:
    inside = threading.Barrier(3, timeout=30)

    def work(start: int, stop: int) -> None:
        if start < 3:  # the first three pieces are of one tile each and wait for one another
            inside.wait()

    share(work, 3, 3)


def test_errors_reach_the_caller_after_all_pieces_have_ended() -> None:
    ended = []

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise ZeroDivisionError("first piece")
        time.sleep(0.01)
        ended.append(stop - start)

    with pytest.raises(ZeroDivisionError, match="first piece"):
        share(work, 12, 2)
    assert sum(ended) == 12 - 3  # all but the first piece
    share(lambda start, stop: None, 12, 2)  # helpers live on


def test_callers_beside_each_other_and_within_each_other() -> None:
    done = np.zeros((4, 50), int)

    def caller(row: int) -> None:
        def work(start: int, stop: int) -> None:
            for tile in range(start, stop):
                share(lambda a, b: time.sleep(0), 4, 2)
                done[row, tile] += 1

        share(work, 50, 3)

    threads = [threading.Thread(target=caller, args=(row,)) for row in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert (done == 1).all()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_helpers_of_its_own() -> None:
    share(lambda start, stop: None, 8, 4)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            inside = threading.Barrier(3, timeout=5)  # three threads must come
            share(lambda start, stop: inside.wait(), 3, 3)
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
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
