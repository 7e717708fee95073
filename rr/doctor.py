"""`rr doctor`: check the installation and print a line for each check, which starts with `ok` or `FAIL`."""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SYSTEM_LIBRARIES = {"opencv4": "libopencv-dev", "libturbojpeg": "libturbojpeg0-dev"}  # pkg-config module: apt package


def run_checks() -> int:
    """Run all checks, print a line for each, and return the exit code: 0, or 2 if a check failed."""
    checks = [
        _check_python, _check_system_libraries, _check_torch_and_torchvision, _check_ffcv, _check_engines, _check_gpu,
        _check_threads, _check_disk,
    ]  # fmt: skip
    passed = [_run_check(check) for check in checks]
    return 0 if all(passed) else 2


def _run_check(check: Callable[[], str]) -> bool:
    """Run a check, print its line, and return whether it passed."""
    name = check.__name__.removeprefix("_check_").replace("_", " ")
    try:
        print(f"ok    {name}: {check()}", flush=True)
    except Exception as error:  # a check may raise any error, and the remaining checks should still run
        hint = ": install the packages in requirements.lock" if isinstance(error, ImportError) else ""
        print(f"FAIL  {name}: {error}{hint}", flush=True)
        return False
    return True


def _check_python() -> str:
    return sys.version.split()[0]


def _check_system_libraries() -> str:
    """Check for the headers of OpenCV and TurboJPEG, which are needed only to build FFCV."""
    if shutil.which("pkg-config") is None:
        return _fail_unless_ffcv_is_built("pkg-config is missing: run apt-get install pkg-config")
    missing = [
        package
        for module, package in SYSTEM_LIBRARIES.items()
        if subprocess.run(["pkg-config", "--exists", module]).returncode
    ]
    if missing:
        packages = " ".join(missing)
        return _fail_unless_ffcv_is_built(f"FFCV cannot be built without {packages}: run apt-get install {packages}")
    return ", ".join(SYSTEM_LIBRARIES.values())


def _fail_unless_ffcv_is_built(problem: str) -> str:
    """Raise RuntimeError with the message `problem` if FFCV cannot be imported."""
    try:
        importlib.import_module("ffcv")
    except Exception as error:
        raise RuntimeError(problem) from error
    return "not needed, because FFCV is already built"


def _check_torch_and_torchvision() -> str:
    import torch

    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, ImportError) as error:
        raise RuntimeError(
            f"torchvision does not work with torch {torch.__version__} ({error}): install both from requirements.lock"
        ) from error
    return f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def _check_ffcv() -> str:
    import numpy as np

    from rr.data import beton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "check.beton")
        images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
        beton.write(path, images, np.zeros(70, np.int64), np.arange(70))
        read = beton.Beton(path, threads=1).images
        if read is None or not np.array_equal(read, images):
            raise RuntimeError(
                "images that were read from a beton differ from those written to it: reinstall ffcv 1.0.2"
            )
    return "writes and reads a beton"


def _check_engines() -> str:
    from importlib.metadata import version

    return f"dvc {version('dvc')}, snakemake {version('snakemake')}"


def _check_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "torch finds no GPU; all stages run on the CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each"


def _check_threads() -> str:
    import numba

    return f"{os.cpu_count()} cores, numba {numba.__version__} with {numba.config.NUMBA_NUM_THREADS} threads"  # type: ignore[attr-defined]


def _check_disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 2:
        raise RuntimeError(
            f"only {free:.1f} GiB free on the disk of this folder: free some space (CIFAR-10 needs 2 GiB)"
        )
    return f"{free:.0f} GiB free on the disk of this folder"
