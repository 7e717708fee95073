"""Apply a function to many items using several threads, and yield the results in the order of the items."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_PENDING_PER_THREAD = 4
# A scheduler such as Slurm may allow this process to use only some of the cores (this number is not available on
# macOS). At most eight threads are used, because each one may hold a photograph that takes up a hundred megabytes.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
DECODING_THREADS = min(8, _CORES)


def map_ordered(function: Callable[[_Item], _Result], items: Iterable[_Item], num_threads: int) -> Iterator[_Result]:
    """Yield `function(item)` for each item, in the order of the items.

    Memory use is bounded, because at most four items per thread are being processed or waiting to be yielded. Threads
    help only if the function releases the GIL most of the time, as Pillow does when it decodes, resizes or encodes an
    image.

    The calling thread requests the items one by one and, if `num_threads` is 1, also calls the function. If the
    function raises an exception, it is raised when the result would have been yielded.
    """
    if num_threads < 2:
        yield from map(function, items)
        return
    executor = ThreadPoolExecutor(num_threads, "map")
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) == _PENDING_PER_THREAD * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Do not wait for the threads: an abandoned generator is closed by the garbage collector, which may run in a
        # thread that is just starting and holds a lock that they need.
        executor.shutdown(wait=False, cancel_futures=True)
