"""Tests of the malloc settings: fewer page faults with glibc, no effect with other C libraries."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rr.runtime.malloc import keep_freed_memory

# Allocate and free three arrays of 16 MiB in each round, and print the page faults after the first round.
PROGRAM = """
import resource
import numpy as np
from rr.runtime.malloc import keep_freed_memory
if {keep}:
    keep_freed_memory()
faults = []
for _ in range(20):
    [np.ones(2 << 20) for _ in range(3)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_page_faults_decrease() -> None:
    default, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    )
    assert kept < default / 10


def test_no_effect_with_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    keep_freed_memory()
    assert not calls
    library.gnu_get_libc_version = lambda: b"2.36"
    keep_freed_memory()
    assert calls
