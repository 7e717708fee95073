"""Output memory that is used again.

A batch of views is large (226 MB for 32 views of 64 images of side 96), and fresh memory costs the kernel of the
operating system about as much time to clear as the views cost to make.
"""

from __future__ import annotations

import sys
import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

_kept: deque[NDArray[np.float32]] = deque(maxlen=3)
"""The latest buffers: one being read, one being filled, one to spare."""

_lock = threading.Lock()


def take(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An uninitialised float32 array that nobody else refers to.

    Arrays, and tensors made from them by `torch.from_numpy`, hold a reference to their memory's owner. So a buffer that
    only this module refers to is free, whatever views, slices or saved activations there were of it.
    """
    with _lock:
        for buffer in _kept:
            # Three references: the deque, the loop variable, the argument of getrefcount.
            if buffer.shape == shape and sys.getrefcount(buffer) == 3:
                return buffer
        buffer = np.empty(shape, np.float32)
        _kept.append(buffer)
        return buffer
