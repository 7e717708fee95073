"""Tests of the messages for operating system errors."""

import errno
from multiprocessing import shared_memory

import pytest

from rr.errors import explain_error, explain_os_error


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_error_of_shared_memory_names_its_folder(number: int) -> None:
    """Python's exception names the shared memory without its folder, /dev/shm."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        shared_memory.SharedMemory("psm_" + 300 * "x", create=True, size=1)
    caught.value.errno = number
    message = str(explain_os_error(caught.value))
    assert " at /dev/shm" in message
    assert "psm_" not in message


def test_missing_folder_for_compiled_code_is_explained() -> None:
    error = RuntimeError("cannot cache function 'resize_box': no locator available for file '/opt/rr/resize_kernel.py'")
    assert "set NUMBA_CACHE_DIR to a writable folder" in str(explain_error(error))
