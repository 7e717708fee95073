"""Check before any training whether this machine has enough memory and disk space for a grid."""

import contextlib
import os
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rr import paths
from rr.errors import UserError
from rr.evaluate.labeled_rows import choose_labeled_rows
from rr.params import FinetuneConfig, Params
from rr.params.methods import TrainableConfig
from rr.workflow import grid, stage_runs
from rr.workflow.dataset_labels import find_dataset_labels
from rr.workflow.records import find_current_record

# Environment variables set in cluster jobs. A grid's jobs may run on different machines.
_CLUSTER_VARIABLES = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")


def find_memory_problem(params: Params, run: paths.PretrainPaths, device: str, num_processes: int = 1) -> str | None:
    """Return why the backbone cannot be built or a training step does not fit in memory, or None.

    A step is reported only if it certainly does not fit (see `estimate_min_step_bytes`). `num_processes` is the number
    of processes that share a mini-batch. This function loads torch.
    """
    config = params.methods[run.method]
    if not isinstance(config, TrainableConfig):
        return None
    dataset = find_dataset_labels(params, run.dataset)
    num_images = min(config.batch_size, len(dataset.train_labels)) if dataset else config.batch_size
    num_views = max(1, num_images // num_processes) * config.views
    name, settings = f"a training step of {run.method}", f"batch_size or views of methods.{run.method}"
    step = _TrainingStep(name, settings, run.backbone, run.dataset, num_views, params.precision)
    return _describe_missing_memory(params, step, device)


def _find_finetuning_memory_problem(params: Params, evaluation: paths.EvaluationPaths, device: str) -> str | None:
    """Return why a finetuning step does not fit in memory, or None, like `find_memory_problem`."""
    config = params.protocols[evaluation.protocol]
    if not isinstance(config, FinetuneConfig):
        return None
    target = find_dataset_labels(params, evaluation.target)
    num_images = config.batch_size
    if target:
        labeled = target.train_labels[target.train_labels >= 0]
        num_images = min(num_images, len(choose_labeled_rows(labeled, config, evaluation.pretraining.seed)))
    name, settings = f"a step of the {evaluation.protocol} protocol", f"batch_size of protocols.{evaluation.protocol}"
    step = _TrainingStep(name, settings, evaluation.pretraining.backbone, evaluation.target, num_images, "float32")
    return _describe_missing_memory(params, step, device)


class _TrainingStep(NamedTuple):
    """A training step whose memory is checked: its name in messages, and the settings that determine its memory."""

    name: str
    settings: str
    backbone: str
    dataset: str
    num_views: int
    precision: str


def _describe_missing_memory(params: Params, step: _TrainingStep, device: str) -> str | None:
    """Return a message if a training step certainly does not fit in memory, or if the backbone cannot be built."""
    from rr.workflow.estimates import estimate_min_step_bytes

    try:
        needed = estimate_min_step_bytes(params, step.backbone, step.dataset, step.num_views, step.precision)
    except UserError as error:
        return str(error)
    available = _memory_bytes(device)
    if needed <= available:
        return None
    place, size = "this machine" if device == "cpu" else "the GPU", params.datasets[step.dataset].image_size
    return (
        f"{step.name} on {step.dataset} with {step.backbone} ({step.num_views:,} views of {size} x {size} pixels) "
        f"needs more than {needed / 1e9:,.1f} GB of memory, but {place} has {available / 1e9:,.1f} GB: lower "
        f"{step.settings}, or image_size of datasets.{step.dataset}, in params.yaml"
    )


def find_machine_problems(params: Params, device: str) -> list[str]:
    """Return one line per reason why this machine has too little memory or disk space for the grid.

    Runs whose record has the current parameters are ignored. This function loads torch.
    """
    runs = [
        run for run in grid.pretrainings(params) if not find_current_record(stage_runs.make_pretrain_run(params, run))
    ]
    return _find_memory_problems(params, runs, device) or _find_disk_problems(params, runs)


def _find_memory_problems(params: Params, runs: list[paths.PretrainPaths], device: str) -> list[str]:
    """Return one line per backbone that cannot be built and per training or finetuning that does not fit in memory."""
    from rr.workflow.estimates import measure_network

    one_run_per_setting = {(run.dataset, run.backbone, run.method): run for run in runs}.values()  # ignores seeds
    problems = [find_memory_problem(params, run, device) for run in one_run_per_setting]
    for run in one_run_per_setting:
        try:
            measure_network(params, run.backbone, run.dataset)  # also for methods that do not train
        except UserError as error:  # the user-defined backbone is faulty
            problems.append(str(error))
    evaluations = {  # ignores seeds and methods
        (run.pretraining.backbone, run.target, run.protocol): run
        for run in grid.evaluations(params)
        if not find_current_record(stage_runs.make_evaluate_run(params, run))
    }
    problems += [_find_finetuning_memory_problem(params, run, device) for run in evaluations.values()]
    return list(dict.fromkeys(filter(None, problems)))


def _find_disk_problems(params: Params, runs: list[paths.PretrainPaths]) -> list[str]:
    """Return one line per disk with too little space for the files that the grid still has to write."""
    from rr.workflow.estimates import estimate_features_bytes, estimate_pretrain_output_bytes

    disk_usage = cache(shutil.disk_usage)  # the free space may change during the check
    needed: Counter[_Disk] = Counter()
    largest_replaced: Counter[_Disk] = Counter()

    def add(folder: Path, num_bytes: int) -> None:
        disk, existing = _find_disk(folder, disk_usage), _folder_bytes(folder)
        needed[disk] += max(0, num_bytes - existing)
        # The previous outputs of a run are deleted only when the new ones are complete.
        largest_replaced[disk] = max(largest_replaced[disk], min(num_bytes, existing))

    for run in runs:
        add(run.folder, estimate_pretrain_output_bytes(params, run))
    datasets = {name: find_dataset_labels(params, name) for name in grid.dataset_names(params)}
    num_images = {name: labels.num_images if labels else 0 for name, labels in datasets.items()}
    for name, count in num_images.items():
        if not find_current_record(stage_runs.make_convert_run(params, name)):
            add(paths.DatasetPaths(name).beton_dir, count * params.datasets[name].estimated_image_bytes)
    for extraction in grid.extractions(params):
        if not find_current_record(stage_runs.make_extract_run(params, extraction)):
            add(extraction.folder, estimate_features_bytes(params, extraction, num_images[extraction.target]))
    return [
        f"the grid's betons, weights and features need {num_bytes / 1e9:,.1f} GB on the disk at "
        f"{disk.mount_point}, but {disk.free / 1e9:,.1f} GB are free: free some space, or remove datasets from "
        "grid.data in params.yaml"
        for disk, num_bytes in (needed + largest_replaced).items()
        if num_bytes > disk.free
    ]


@dataclass(frozen=True)
class _Disk:
    """The total and the free size of a disk in bytes. Subvolumes, which share a disk, compare as equal."""

    total: int
    free: int
    mount_point: Path = field(compare=False)


def _folder_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder, which may be missing."""
    num_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process has just renamed or deleted the file
                num_bytes += os.stat(os.path.join(parent, name)).st_size
    return num_bytes


def _find_disk(folder: Path, disk_usage: Callable[[Path], Any]) -> _Disk:
    """Return the disk that holds a folder or, if the folder is missing, the disk on which it will be created."""
    path = folder.resolve()
    mount_point = next(parent for parent in (path, *path.parents) if parent.is_mount())
    usage = disk_usage(mount_point)
    return _Disk(usage.total, usage.free, mount_point)


def runs_on_cluster() -> bool:
    """Return whether this process is a cluster job. Other jobs may then run on other machines."""
    return any(name in os.environ for name in _CLUSTER_VARIABLES)


def _memory_bytes(device: str) -> int:
    """Return the GPU memory in bytes or, for the CPU, the maximum memory that this process may use, including swap."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    limits, swap = [resource.getrlimit(resource.RLIMIT_AS)[0]], 0
    with contextlib.suppress(OSError, KeyError, ValueError):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
        swap = 1024 * kilobytes["SwapTotal"]
        limits.append(1024 * kilobytes["MemTotal"] + swap)
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # `max` means that there is no limit
            limits.append(int(Path("/sys/fs/cgroup", file).read_text(encoding="ascii")) + swap)
    return min((limit for limit in limits if limit > 0), default=sys.maxsize)
