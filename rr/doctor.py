"""`rr doctor`: check the installation, and print a line that starts with `ok` or `FAIL` for each check."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rr.errors import explain_error
from rr.project import describe_outdated_files, is_in_work_tree

SYSTEM_LIBRARIES = {"opencv4": "libopencv-dev", "libturbojpeg": "libturbojpeg0-dev"}  # pkg-config module: apt package


class CheckResult(NamedTuple):
    """The result of a check: its name, whether it passed, and what it found."""

    name: str
    passed: bool
    message: str


def run_checks(as_json: bool = False) -> int:
    """Run all checks, print one line per check or JSON, and return the exit code: 0, or 2 if any check failed."""
    checks = [
        _check_python, _check_system_libraries, _check_torch_and_torchvision, _check_ffcv, _check_workflow_engines,
        _check_gpu, _check_threads, _check_disk,
    ]  # fmt: skip
    if Path("dvc.yaml").is_file():
        checks += [_check_repository, _check_grid]
    elif not as_json:
        print(
            "      this folder is not a project (no dvc.yaml), so its repository and grid are not checked", flush=True
        )
    results = []
    for check in checks:
        result = _run_check(check)
        results.append(result)
        if not as_json:
            print(f"{'ok   ' if result.passed else 'FAIL '} {result.name}: {result.message}", flush=True)
    if as_json:
        print(json.dumps([result._asdict() for result in results], indent=1))
    return 0 if all(result.passed for result in results) else 2


def _run_check(check: Callable[[], str]) -> CheckResult:
    name = check.__name__.removeprefix("_check_").replace("_", " ")
    try:
        return CheckResult(name, True, check())
    except Exception as error:  # a check may raise any error, and the remaining checks should still run
        explained = explain_error(error) if isinstance(error, ModuleNotFoundError | RuntimeError) else None
        hint = ": install the packages in requirements.lock" if isinstance(error, ImportError) and not explained else ""
        return CheckResult(name, False, f"{explained or error}{hint}")


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
        # A split that fits in memory is read without FFCV's decoder, so allow no bytes in memory.
        data = beton.Beton(path, threads=1, max_resident_bytes=0)
        (read,) = data.batches(range(70), batch_size=70)
        if not np.array_equal(read, images):
            raise RuntimeError("images read from a beton differ from the images written to it: reinstall ffcv 1.0.2")
    return "writes and reads a beton"


def _check_workflow_engines() -> str:
    from importlib.metadata import version

    return f"dvc {version('dvc')}, snakemake {version('snakemake')}"


def _check_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "torch found no GPU; all stages will run on the CPU"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, {memory:.0f} GiB each"


def _check_threads() -> str:
    import numba

    return f"{os.cpu_count()} cores, numba {numba.__version__} with {numba.config.NUMBA_NUM_THREADS} threads"  # type: ignore[attr-defined]


def _check_disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 2:
        raise RuntimeError(
            f"only {free:.1f} GiB free on the disk that holds this folder: free some space (CIFAR-10 needs 2 GiB)"
        )
    return f"{free:.0f} GiB free on the disk that holds this folder"


def _check_repository() -> str:
    """Check that DVC can run, which requires a git repository and a .dvc folder."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    if not is_in_work_tree(Path.cwd()):
        raise RuntimeError(
            "this folder is not in a git repository, so DVC cannot run: run `git init`, or start "
            "from a clone of the project"
        )
    try:
        with Repo() as repo:
            root = repo.root_dir
            _ = repo.index.stages  # reads dvc.yaml and dvc.lock
    except NotDvcRepoError:
        raise RuntimeError("the .dvc folder is missing, so DVC cannot run: run `dvc init`") from None
    except DvcException as error:
        raise RuntimeError(f"DVC cannot run: {error}") from error
    if not os.path.samefile(root, "."):
        raise RuntimeError(f"DVC runs in {root}: change to that folder, which contains the .dvc folder")
    for folder in ("data", "data/raw", "data/beton", "runs", "report"):
        if os.path.islink(folder):
            raise RuntimeError(
                f"{folder} is a link to {os.path.realpath(folder)}, so DVC cannot store outputs in it (Snakemake can): "
                "move the whole project to the other disk, or mount that folder here"
            )
    outdated = describe_outdated_files(Path.cwd())
    return "git and DVC can be used in this folder" + (f"; {outdated}" if outdated else "")


def _check_grid() -> str:
    """Check the grid in params.yaml against the known datasets and against this machine."""
    from rr import paths
    from rr.compute.device import resolve_device
    from rr.params import load_params
    from rr.runtime.formatting import format_count
    from rr.workflow import grid
    from rr.workflow.dataset_labels import find_dataset_labels
    from rr.workflow.grid_checks import find_grid_problems
    from rr.workflow.machine_checks import find_machine_problems

    params = load_params(paths.PARAMS_FILE)
    if "backbones" not in params.model_fields_set:
        raise RuntimeError(f"{paths.PARAMS_FILE} has no section backbones, which DVC needs: add `backbones: {{}}`")
    problems = [*find_grid_problems(params), *find_machine_problems(params, resolve_device("auto"))]
    if problems:
        raise RuntimeError("it cannot be completed:\n      " + "\n      ".join(problems))
    num_pretrainings, num_evaluations = len(list(grid.pretrainings(params))), len(list(grid.evaluations(params)))
    counts = f"{format_count(num_pretrainings, 'pretraining runs')}, {format_count(num_evaluations, 'evaluations')}"
    unknown = [name for name in grid.dataset_names(params) if find_dataset_labels(params, name) is None]
    return f"{counts}; not checked before rr fetch has run: {', '.join(unknown)}" if unknown else counts
