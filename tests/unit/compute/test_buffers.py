"""Tests of the pool of reused arrays."""

import os
import signal

import numpy as np
import torch

from rr.compute.buffers import BufferPool


def test_array_is_reused_only_if_nothing_refers_to_it() -> None:
    pool = BufferPool(max_buffers=3)
    array = pool.empty((2, 3))
    assert array.dtype == np.float32
    address = array.ctypes.data
    part = torch.from_numpy(array)[1:]
    del array
    assert pool.empty((2, 3)).ctypes.data != address
    del part
    assert pool.empty((3, 2)).ctypes.data != address
    assert pool.empty((2, 3)).ctypes.data == address


def test_lock_is_free_in_a_forked_process() -> None:
    pool = BufferPool(max_buffers=1)
    with pool._lock:  # as if another thread were creating an array
        if (child := os.fork()) == 0:
            signal.alarm(20)  # ends the child if it waits for the lock
            pool.empty((1,))
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert status == 0


def test_oldest_array_leaves_the_pool() -> None:
    pool = BufferPool(max_buffers=2)
    arrays = [pool.empty((size,)) for size in (1, 2, 3)]
    assert [len(array) for array in pool._buffers] == [2, 3]
    assert len(arrays[0]) == 1
