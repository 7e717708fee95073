"""Tests of the ordered parallel map: order, exceptions and bounded memory."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from helpers import wait_until

from rr.runtime.ordered_map import map_ordered


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 7 == 0 else 0)
        return number**2

    assert list(map_ordered(slow_first, range(40), threads)) == [number**2 for number in range(40)]
    assert list(map_ordered(slow_first, [], threads)) == []


def test_several_threads_work_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=10)  # each of three calls waits for the other two
    list(map_ordered(lambda _: barrier.wait(), range(6), 3))


@pytest.mark.parametrize("threads", [1, 3])
def test_few_items_are_requested_ahead(threads: int) -> None:
    requested = 0

    def items() -> Iterator[int]:
        nonlocal requested
        for number in range(1000):
            requested += 1
            yield number

    results = map_ordered(abs, items(), threads)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert requested <= 10 + 4 * threads
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 3])
def test_exceptions_of_the_function_and_of_the_items_are_raised(threads: int) -> None:
    results = map_ordered(lambda number: 1 // (3 - number), range(10), threads)
    assert [next(results), next(results), next(results)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)

    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(map_ordered(abs, items(), threads))


def test_closing_does_not_wait_for_the_threads() -> None:
    """The garbage collector may close an abandoned generator in a thread that holds a lock.

    If the other threads need this lock in order to end, waiting for them would never finish.
    """
    started, release = threading.Event(), threading.Event()
    was_released: list[bool] = []

    def block(number: int) -> None:
        if number:
            started.set()
            was_released.append(release.wait(60))

    results = map_ordered(block, range(100), 2)
    next(results)
    assert started.wait(60)
    results.close()  # type: ignore[attr-defined]
    assert was_released == []
    release.set()
    wait_until(lambda: was_released)
    assert all(was_released)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="macOS cannot restrict a process to some cores")
def test_number_of_threads_respects_the_cores_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from rr.runtime import ordered_map"
    code += "; print(ordered_map.DECODING_THREADS)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
