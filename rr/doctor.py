"""`rr doctor`: check the installation. Each line of the output is `ok`, or `FAIL` with instructions."""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SYSTEM_LIBRARIES = {"opencv4": "libopencv-dev", "libturbojpeg": "libturbojpeg0-dev"}


def run_checks() -> int:
    """Run all checks and print a line for each. Returns the exit code: 0, or 2 if a check failed."""
    checks = [_python, _system_libraries, _torch_pair, _ffcv, _engines, _gpu, _threads, _disk]
    passed = [_run_check(check) for check in checks]
    return 0 if all(passed) else 2


def _run_check(check: Callable[[], str]) -> bool:
    """Run a check, print its line, and return whether it passed."""
    name = check.__name__.strip("_").replace("_", " ")
    try:
        print(f"ok    {name}: {check()}", flush=True)
    except Exception as error:  # a check can fail in any way, and the remaining checks should run
        print(f"FAIL  {name}: {error}", flush=True)
        return False
    return True


def _python() -> str:
    return sys.version.split()[0]


def _system_libraries() -> str:
    """Check for the headers of OpenCV and TurboJPEG, which are needed to build FFCV, but not after that."""
    if shutil.which("pkg-config") is None:
        return _fail_without_ffcv("pkg-config is missing: apt-get install pkg-config")
    missing = [
        package
        for module, package in SYSTEM_LIBRARIES.items()
        if subprocess.run(["pkg-config", "--exists", module]).returncode
    ]
    if missing:
        return _fail_without_ffcv(f"missing for building FFCV: apt-get install {' '.join(missing)}")
    return ", ".join(SYSTEM_LIBRARIES.values())


def _fail_without_ffcv(problem: str) -> str:
    try:
        importlib.import_module("ffcv")
    except Exception as error:
        raise RuntimeError(problem) from error
    return "not needed, because FFCV is already built"


def _torch_pair() -> str:
    import torch

    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, ImportError) as error:
        raise RuntimeError(
            f"torch {torch.__version__} is incompatible with torchvision ({error}): install both from requirements.lock"
        ) from error
    return f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def _ffcv() -> str:
    import numpy as np

    from rr.data import beton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "check.beton")
        images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
        beton.write(path, images, np.zeros(70, np.int64), np.arange(70))
        read = beton.Beton(path, threads=1).images
        if read is None or not np.array_equal(read, images):
            raise RuntimeError("images read from a beton differ from those written: reinstall ffcv 1.0.2")
    return "writes and reads a beton"


def _engines() -> str:
    from importlib.metadata import version

    return f"dvc {version('dvc')}, snakemake {version('snakemake')}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; all stages run on the CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"


def _threads() -> str:
    import numba

    return f"{os.cpu_count()} cores, numba {numba.__version__} with {numba.config.NUMBA_NUM_THREADS} threads"  # type: ignore[attr-defined]


def _disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 2:
        raise RuntimeError(f"only {free:.1f} GiB free in this folder: CIFAR-10 needs 2 GiB")
    return f"{free:.0f} GiB free in this folder"
