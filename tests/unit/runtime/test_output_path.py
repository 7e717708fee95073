"""Tests of the checks of output paths before any work is done."""

import os
from pathlib import Path

import pytest

from rr.errors import UserError
from rr.runtime.atomic import write_text
from rr.runtime.output_path import check_output_path, is_writable


def test_folder_that_accepts_no_file_is_refused() -> None:
    """For root, the permissions of /proc allow writing."""
    with pytest.raises(
        UserError, match=r"^--output /proc/x\.html cannot be written, because /proc accepts no new file"
    ):
        check_output_path("--output", Path("/proc/x.html"), [".html"])
    assert not is_writable(Path("/proc/x.html"))


def test_name_that_is_too_long_for_the_temporary_file_is_refused(tmp_path: Path) -> None:
    lengths = [length for length in range(150, 256) if write(tmp_path / f"{(length - 5) * 'a'}.html")]
    assert lengths == list(range(150, lengths[-1] + 1))
    with pytest.raises(UserError, match=r"a\.html has a name that is too long: use a shorter name"):
        check_output_path("--output", tmp_path / f"{(lengths[-1] - 4) * 'a'}.html", [".html"])
    assert sorted(map(len, os.listdir(tmp_path))) == lengths


def write(path: Path) -> bool:
    """Return whether `check_output_path` accepts the path, and write the file if so."""
    try:
        check_output_path("--output", path, [".html"])
    except UserError:
        return False
    write_text(path, "x", concurrent=True)
    return True
