"""Check before any training whether a grid can be completed: labels, image counts, memory and disk space.

`rr plan` and `rr doctor` report all problems in the grid. `rr convert` and `rr pretrain` stop if there are any, so that
no training starts for a grid that cannot be completed.
"""

import contextlib
import os
import resource
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.data.arrow import to_numpy
from rr.data.class_names_metadata import parse_class_names
from rr.data.printable_names import printable
from rr.data.shapes import CLASS_NAMES as SHAPES_CLASSES
from rr.data.sources import digits, slimagenet, tiny_imagenet
from rr.errors import UserError
from rr.evaluate.labeled_rows import choose_labeled_rows
from rr.evaluate.protocol_checks import find_protocol_problem
from rr.methods.requirements import find_backbone_problem, find_training_problem, find_weights_problem
from rr.params import DatasetConfig, FinetuneConfig, FolderSource, ImportedConfig, Params, ParquetSource
from rr.params.backbones import BUILTIN_BACKBONES
from rr.params.methods import TrainableConfig
from rr.workflow import grid, stage_runs
from rr.workflow.records import find_current_record, load_record
from rr.workflow.verify import find_exclude_list_change

# Numbers of training images, test images and classes for the sources whose size never varies. All classes of a source
# have the same number of images (in `digits`, almost the same). A dataset without labels has 0 classes.
_FIXED_SIZES = {
    "digits": (digits.NUM_TRAIN, digits.CLASSES * digits.TEST_PER_CLASS, digits.CLASSES),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar100_20": (50_000, 10_000, 20),
    "stl10": (5_000, 8_000, 10),
    "stl10_unlabeled": (100_000, 8_000, 0),
    "tiny_imagenet": (
        tiny_imagenet.CLASSES * tiny_imagenet.TRAIN_PER_CLASS, tiny_imagenet.TEST, tiny_imagenet.CLASSES,
    ),
    "slimagenet64": (
        slimagenet.CLASSES * slimagenet.TRAIN_PER_CLASS,
        slimagenet.CLASSES * (slimagenet.PER_CLASS - slimagenet.TRAIN_PER_CLASS),
        slimagenet.CLASSES,
    ),
}  # fmt: skip
# Environment variables set in cluster jobs. A grid's jobs may run on different machines.
_CLUSTER_VARIABLES = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")


class DatasetLabels(NamedTuple):
    """The class names of a dataset and the label of each image (-1 if it is unlabeled)."""

    class_names: list[str]
    train_labels: np.ndarray
    test_labels: np.ndarray

    @property
    def num_images(self) -> int:
        """The number of images in both splits together."""
        return len(self.train_labels) + len(self.test_labels)


def find_dataset_labels(params: Params, name: str) -> DatasetLabels | None:
    """Return the class names and labels of a dataset, or None if they are unknown until `rr fetch` has run.

    This function reads the files written by `rr fetch` and `rr convert`, unless the images were fetched with different
    parameters. It ignores damaged files, because the stages that read them report the damage.
    """
    files = paths.DatasetPaths(name)
    try:
        has_record = paths.record_file(files.raw_dir).is_file()
        # Files without an `rr fetch` record come from another machine.
        if not has_record or load_record(files.raw_dir)["params"] == stage_runs.make_fetch_run(params, name).params:
            return _read_labels(files.images if files.images.is_file() else files.index)
    except (OSError, pa.ArrowException, KeyError, ValueError, UserError):
        pass
    return _make_labels(params.datasets[name].source)


def find_grid_problems(params: Params) -> list[str]:
    """Return one line per reason why runs in the grid cannot succeed: what is wrong, where, and how to fix it.

    Datasets whose images are not known yet are not checked. This function does not load torch.
    """
    datasets = {name: find_dataset_labels(params, name) for name in grid.dataset_names(params)}
    problems = [find_exclude_list_change(stage_runs.make_fetch_run(params, name)) for name in datasets]
    problems += [_find_source_problem(params, name) for name in datasets]
    evaluations = list(grid.evaluations(params))
    problems += [_find_test_copies_problem(params, name) for name in {run.target: None for run in evaluations}]
    different = {(run.dataset, run.backbone, run.method): run for run in grid.pretrainings(params)}  # ignores seeds
    problems += [find_pretraining_problem(params, run, datasets[run.dataset]) for run in different.values()]
    problems += [_find_image_size_problem(params, evaluation) for evaluation in evaluations]
    for name, protocol in dict.fromkeys((evaluation.target, evaluation.protocol) for evaluation in evaluations):
        if target := datasets[name]:
            problems.append(find_protocol_problem(protocol, params.protocols[protocol], name, *target))
    return list(dict.fromkeys(filter(None, problems)))


def _find_source_problem(params: Params, name: str) -> str | None:
    """Return a problem if a user's own images have not been fetched and their path does not exist."""
    source, files = params.datasets[name].source, paths.DatasetPaths(name)
    if not isinstance(source, FolderSource | ParquetSource) or files.images.exists() or files.index.exists():
        return None
    if paths.expand_user(source.path).exists():
        return None
    return (
        f"{name} cannot be fetched, because {printable(source.path)} does not exist: fix "
        f"datasets.{name}.source.path in params.yaml"
    )


def _find_test_copies_problem(params: Params, name: str) -> str | None:
    """Return a problem if every test image of a dataset is also a training image, which makes results meaningless."""
    record = find_current_record(stage_runs.make_fetch_run(params, name))
    if not record or not record.get("test_copies") or record["test_copies"] < record["images"]["test"]:
        return None
    return (
        f"{name} cannot be a target, because every test image has a copy in the training split, so the results would "
        f"be meaningless: fix the splits, or remove {name} from grid.target in params.yaml"
    )


def find_pretraining_problem(params: Params, run: paths.PretrainPaths, dataset: DatasetLabels | None) -> str | None:
    """Return why a pretraining run would fail and how to fix it, or None. This function does not load torch."""
    config = params.methods[run.method]
    image_size = params.datasets[run.dataset].image_size
    if isinstance(config, ImportedConfig):
        problem = find_weights_problem(config, run.backbone, image_size)
        return f"methods.{run.method}: {problem}" if problem else None
    initial = config.initial_weights if isinstance(config, TrainableConfig) else None
    if initial and (problem := find_weights_problem(initial, run.backbone, image_size)):
        return f"methods.{run.method}.initial_weights: {problem}"
    problem = find_backbone_problem(config, run.backbone)
    if dataset and not problem:
        problem = find_training_problem(config, dataset.train_labels, len(dataset.class_names))
    return f"{run.method} cannot be trained on {run.dataset}, because {problem}" if problem else None


def _find_image_size_problem(params: Params, run: paths.EvaluationPaths) -> str | None:
    """Return why a backbone cannot be evaluated on images of the target's size, or None if it can."""
    sizes = [params.datasets[name].image_size for name in (run.pretraining.dataset, run.target)]
    if run.pretraining.backbone in BUILTIN_BACKBONES or sizes[0] == sizes[1]:
        return None
    return (
        f"{run.pretraining.backbone} trained on {run.pretraining.dataset} cannot be evaluated on {run.target}: the "
        f"backbone is built for images of {sizes[0]} x {sizes[0]} pixels, but the image_size of {run.target} is "
        f"{sizes[1]}: set the same image_size for both datasets in params.yaml"
    )


def _read_labels(path: Path) -> DatasetLabels:
    """Read the labels from a dataset's raw file or index."""
    table = pq.ParquetFile(path).read(["split", "label"])  # `pq.read_table` would load pyarrow.dataset
    labels = to_numpy(table["label"])
    is_test = np.array(table["split"].to_pylist()) == "test"
    return DatasetLabels(parse_class_names(table.schema.metadata), labels[~is_test], labels[is_test])


def _make_labels(source: Any) -> DatasetLabels | None:
    """Return labels in arbitrary order, or None if the source's numbers of images and classes are unknown."""
    if source.kind == "shapes":
        num_train, num_test, num_classes = source.train, source.test, len(SHAPES_CLASSES)
    elif source.kind in _FIXED_SIZES:
        num_train, num_test, num_classes = _FIXED_SIZES[source.kind]
    else:
        return None
    train, test = (
        np.arange(count) % num_classes if num_classes else np.full(count, -1) for count in (num_train, num_test)
    )
    return DatasetLabels([str(label) for label in range(num_classes)], train, test)


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
    step = f"a training step of {run.method} on {run.dataset} with {run.backbone}"
    remedy = f"batch_size or views of methods.{run.method}"
    return _describe_missing_memory(
        params, run.backbone, run.dataset, num_views, params.precision, device, step, remedy
    )


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
    backbone = evaluation.pretraining.backbone
    step = f"a step of the {evaluation.protocol} protocol on {evaluation.target} with {backbone}"
    remedy = f"batch_size of protocols.{evaluation.protocol}"
    return _describe_missing_memory(params, backbone, evaluation.target, num_images, "float32", device, step, remedy)


def _describe_missing_memory(
    params: Params, backbone: str, dataset: str, num_views: int, precision: str, device: str, step: str, remedy: str
) -> str | None:
    """Return a message if a training step certainly does not fit in memory, or if the backbone cannot be built."""
    from rr.workflow.estimates import estimate_min_step_bytes

    try:
        needed = estimate_min_step_bytes(params, backbone, dataset, num_views, precision)
    except UserError as error:
        return str(error)
    available = _memory_bytes(device)
    if needed <= available:
        return None
    place, size = "this machine" if device == "cpu" else "the GPU", params.datasets[dataset].image_size
    return (
        f"{step} ({num_views:,} views of {size} x {size} pixels) needs more than {needed / 1e9:,.1f} GB of memory, but "
        f"{place} has {available / 1e9:,.1f} GB: lower {remedy}, or image_size of datasets.{dataset}, in params.yaml"
    )


def find_machine_problems(params: Params, device: str) -> list[str]:
    """Return one line per reason why this machine has too little memory or disk space for the grid.

    Runs whose record has the current parameters are ignored. This function loads torch.
    """
    from rr.workflow.estimates import estimate_features_bytes, estimate_pretrain_output_bytes

    runs = [
        run for run in grid.pretrainings(params) if not find_current_record(stage_runs.make_pretrain_run(params, run))
    ]
    different = {(run.dataset, run.backbone, run.method): run for run in runs}  # ignores seeds
    problems = [find_memory_problem(params, run, device) for run in different.values()]
    for run in different.values():
        try:
            estimate_pretrain_output_bytes(params, run)
        except UserError as error:  # the user-defined backbone is faulty
            problems.append(str(error))
    evaluations = {  # ignores seeds and methods
        (run.pretraining.backbone, run.target, run.protocol): run
        for run in grid.evaluations(params)
        if not find_current_record(stage_runs.make_evaluate_run(params, run))
    }
    problems += [_find_finetuning_memory_problem(params, run, device) for run in evaluations.values()]
    if problems := list(dict.fromkeys(filter(None, problems))):
        return problems
    needed: Counter[_Disk] = Counter()
    for run in runs:
        needed[_find_disk(run.folder)] += estimate_pretrain_output_bytes(params, run)
    datasets = {name: find_dataset_labels(params, name) for name in grid.dataset_names(params)}
    num_images = {name: known.num_images if known else 0 for name, known in datasets.items()}
    for name, count in num_images.items():
        if not find_current_record(stage_runs.make_convert_run(params, name)):
            folder = paths.DatasetPaths(name).beton_dir
            needed[_find_disk(folder)] += count * estimate_image_bytes(params.datasets[name])
    for extraction in grid.extractions(params):
        if not find_current_record(stage_runs.make_extract_run(params, extraction)):
            num_bytes = estimate_features_bytes(params, extraction, num_images[extraction.target])
            needed[_find_disk(extraction.folder)] += num_bytes
    return [
        f"the grid's betons, weights and features need {num_bytes / 1e9:,.1f} GB on the disk at "
        f"{disk.mount_point}, but {disk.free / 1e9:,.1f} GB are free: free some space, or remove datasets from "
        "grid.data in params.yaml"
        for disk, num_bytes in needed.items()
        if num_bytes > disk.free
    ]


@dataclass(frozen=True)
class _Disk:
    """The total and the free size of a disk in bytes. Subvolumes, which share a disk, compare as equal."""

    total: int
    free: int
    mount_point: Path = field(compare=False)


def _find_disk(folder: Path) -> _Disk:
    """Return the disk that holds a folder or, if the folder is missing, the disk on which it will be created."""
    path = folder.resolve()
    mount_point = next(parent for parent in (path, *path.parents) if parent.is_mount())
    usage = shutil.disk_usage(mount_point)
    return _Disk(usage.total, usage.free, mount_point)


def estimate_image_bytes(dataset: DatasetConfig) -> int:
    """Return the size of a stored image in bytes, assuming 4:3 photographs and a JPEG compression ratio of eight."""
    if dataset.stored_size is None:
        return dataset.image_size**2 * 3
    pixels = dataset.stored_size**2 * 4
    return pixels if dataset.quality == "raw" else pixels // 8


def runs_on_cluster() -> bool:
    """Return whether this process is a cluster job. Other jobs may then run on other machines."""
    return any(name in os.environ for name in _CLUSTER_VARIABLES)


def _memory_bytes(device: str) -> int:
    """Return the GPU memory in bytes or, for the CPU, the most memory that this process may use, including swap."""
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
