"""Tests of the messages for operating system errors."""

import errno
import os
from multiprocessing import shared_memory

import pytest

from rr.errors import UserError, explain_error, explain_os_error


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_error_of_shared_memory_names_its_folder(number: int) -> None:
    """Python's exception names the shared memory without its folder, /dev/shm."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        shared_memory.SharedMemory("psm_" + 300 * "x", create=True, size=1)
    caught.value.errno = number
    message = str(explain_os_error(caught.value))
    assert " at /dev/shm" in message
    assert "psm_" not in message


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.ENODEV, errno.EBUSY, errno.ETIMEDOUT])
def test_any_error_at_a_path_is_explained(number: int) -> None:
    message = str(explain_error(OSError(number, os.strerror(number), "/mnt/x")))
    assert message == f"{os.strerror(number)} at /mnt/x: check the path and its file system"
    assert explain_error(OSError(number, os.strerror(number))) is None  # it may be a bug


def test_too_many_open_files_are_explained() -> None:
    message = str(explain_error(OSError(errno.EMFILE, "Too many open files", "/mnt/x")))
    assert message == "too many open files: raise the limit (`ulimit -n`)"


def test_missing_folder_for_compiled_code_is_explained() -> None:
    error = RuntimeError("cannot cache function 'resize_box': no locator available for file '/opt/rr/resize_kernel.py'")
    assert "set NUMBA_CACHE_DIR to a writable folder" in str(explain_error(error))


def test_control_characters_in_a_message_are_escaped() -> None:
    assert str(UserError("x\x1b[31m.pt\r is damaged:\nuse\ta café")) == "x\\x1b[31m.pt\\r is damaged:\nuse\ta café"


def test_names_in_a_message_can_be_copied() -> None:
    text = "path: 写真\u30002024/a\u00a0b"
    assert str(UserError(text)) == text
