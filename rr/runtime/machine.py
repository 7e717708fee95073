"""Describe the machine, the package versions and the git commit, for a run's record."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT_PACKAGES = (
    "torch",
    "torchvision",
    "ffcv",
    "numba",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "pillow",
    "pillow-heif",
    "timm",
)
"""The packages that can affect a result."""

# Recorded, but a different version does not change a result; the code of this project is compared by its hashes.
_WORKFLOW_PACKAGES = ("relational-reasoning", "dvc", "snakemake")

_TRACKED_PATHS = ("rr", "workflow", "dvc.yaml", "Snakefile")  # not params.yaml: records contain the parameters
_GIT_OPTIONS: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 1, "stdin": subprocess.DEVNULL}


def read_git_commit() -> dict[str, Any] | None:
    """Return the git commit of the current folder, and whether the code differs from it.

    Returns:
        A dict with the keys `id` and `changed`, or None if git is not installed, if the folder is not in a repository
        with a commit, or if git takes longer than a second. A stage therefore never fails because of git.
    """
    git = ["git", "--no-optional-locks"]
    try:
        head = subprocess.run([*git, "rev-parse", "--verify", "HEAD"], **_GIT_OPTIONS)
        diff = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *_TRACKED_PATHS], **_GIT_OPTIONS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode or diff.returncode not in (0, 1):
        return None
    return {"id": head.stdout.strip(), "changed": bool(diff.returncode)}


def describe_machine() -> dict[str, Any]:
    """Return the properties of the machine that can affect a result or a duration."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "versions": package_versions(_WORKFLOW_PACKAGES + RESULT_PACKAGES),
    }


def package_versions(packages: Sequence[str] = RESULT_PACKAGES) -> dict[str, str]:
    """Return the version of each package, or "not installed"."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def peak_memory_mib() -> int:
    """Return the peak resident memory of this process in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
