"""The machine, the package versions and the git commit that a record names."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_VERSIONED = ("rr", "workflow", "params.yaml", "dvc.yaml", "Snakefile")


_QUIETLY: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 1, "stdin": subprocess.DEVNULL}


PACKAGES = ("torch", "torchvision", "ffcv", "numba", "numpy", "pyarrow", "scikit-learn", "dvc", "snakemake")


def commit() -> dict[str, Any] | None:
    """The commit that the current folder is at, and whether its files that determine results differ from it.

    None outside a git checkout, without git, and where git takes longer than a second: no stage fails for it.
    """
    git = ["git", "--no-optional-locks"]
    try:
        head = subprocess.run([*git, "rev-parse", "--verify", "HEAD"], **_QUIETLY)
        same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *_VERSIONED], **_QUIETLY)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode or same.returncode not in (0, 1):
        return None
    return {"id": head.stdout.strip(), "changed": bool(same.returncode)}


def machine() -> dict[str, Any]:
    """The surroundings that can change a figure or a time."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of the packages that can change a figure."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mib() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
