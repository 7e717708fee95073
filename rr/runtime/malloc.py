"""Reduce page faults by keeping freed memory in the process."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_MAX_MMAP_THRESHOLD = 32 << 20  # bytes; glibc rejects larger values


def keep_freed_memory() -> None:
    """Make malloc reuse freed memory instead of returning it to the operating system.

    Training frees and allocates the same memory in every step, and the operating system would otherwise clear it each
    time. Blocks of 32 MiB or more are still returned. This has no effect with C libraries other than glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
