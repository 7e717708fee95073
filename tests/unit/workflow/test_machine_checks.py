"""Tests of the checks of memory and disk space before the first training run."""

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import write_params

from rr import paths
from rr.commands import _check_pretraining
from rr.errors import UserError
from rr.params import Params, load_params
from rr.workflow import grid, machine_checks
from rr.workflow.estimates import estimate_min_step_bytes
from rr.workflow.machine_checks import find_machine_problems, find_memory_problem
from rr.workflow.records import with_digest
from rr.workflow.stage_runs import make_convert_run, make_pretrain_run


def load(project: Path, change: Callable[[dict], None] | None = None) -> Params:
    write_params(project, change)
    return load_params(project / "params.yaml")


def test_step_that_does_not_fit_in_memory_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(project, lambda params: params["methods"]["relational"].update(batch_size=200))
    run = paths.PretrainPaths("shapes", "conv4", "relational", 1)
    needed = estimate_min_step_bytes(params, run.backbone, run.dataset, 200 * 4, params.precision)
    monkeypatch.setattr(machine_checks, "_memory_bytes", lambda device: needed)
    assert find_machine_problems(params, "cpu") == []
    monkeypatch.setattr(machine_checks, "_memory_bytes", lambda device: needed - 1)
    (problem,) = find_machine_problems(params, "cpu")
    assert "a training step of relational on shapes with conv4 (800 views of 32 x 32 pixels) needs more than" in problem
    assert find_memory_problem(params, run, "cpu", num_processes=2) is None
    # A run whose record has the current parameters has been trained, possibly on another machine.
    run.folder.mkdir(parents=True)
    for changes, has_problem in (({"threads": 99}, True), ({}, False)):
        record = {"params": make_pretrain_run(params, run).params | changes, "inputs": {}, "code": {}, "outputs": {}}
        paths.record_file(run.folder).write_text(json.dumps(with_digest(record)))
        assert bool(find_machine_problems(params, "cpu")) == has_problem


def test_memory_of_this_machine_is_known() -> None:
    assert 1e8 < machine_checks._memory_bytes("cpu") < 1e14


MEMINFO = "MemTotal:       4 kB\nMemFree:        1 kB\nSwapTotal:      1 kB\n"  # with swap, 5,120 bytes


@pytest.mark.parametrize(
    ("files", "address_space", "expected"),
    [
        ({}, -1, sys.maxsize),
        ({"proc/meminfo": MEMINFO}, -1, 5120),
        ({"proc/meminfo": MEMINFO}, 3000, 3000),
        ({"proc/meminfo": "MemTotal: unknown"}, 3000, 3000),
        # A cgroup limits the memory without swap: cgroup v2 in memory.max, and v1 in memory.limit_in_bytes.
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "2000\n"}, -1, 3024),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": "max\n"}, -1, 5120),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n"}, -1, 3024),
        ({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, -1, 5120),
        ({"sys/fs/cgroup/memory.max": "2000\n"}, -1, 2000),
        ({"sys/fs/cgroup/memory.max": "2000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n"}, -1, 1000),
    ],
)
def test_memory_is_the_lowest_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], address_space: int, expected: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(machine_checks, "Path", lambda root, *parts: Path(f"{tmp_path}{root}", *parts))
    monkeypatch.setattr(machine_checks.resource, "getrlimit", lambda limit: (address_space, -1))
    assert machine_checks._memory_bytes("cpu") == expected


def test_step_that_does_not_fit_on_the_gpu_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, run = load(project), paths.PretrainPaths("shapes", "conv4", "relational", 1)
    needed = estimate_min_step_bytes(params, run.backbone, run.dataset, 32 * 4, params.precision)
    memory = {"cuda:0": needed, "cuda:1": needed - 1}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: argparse.Namespace(total_memory=memory[device])
    )
    assert find_memory_problem(params, run, "cuda:0") is None
    assert f"of memory, but the GPU has {(needed - 1) / 1e9:.1f} GB" in str(find_memory_problem(params, run, "cuda:1"))


@pytest.mark.parametrize(
    ("variable", "num_processes"), [(None, 1), ("SLURM_JOB_ID", 1), ("KUBERNETES_SERVICE_HOST", 1), (None, 2)]
)
def test_cluster_job_checks_only_the_memory_of_its_own_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, num_processes: int
) -> None:
    """A run with several processes does the same. Other runs may be on other machines, which may have more memory."""

    def change(params: dict) -> None:
        params["methods"]["large"] = {**params["methods"]["relational"], "batch_size": 200}
        params["grid"]["method"] = ["relational", "large"]

    params = load(project, change)
    small, large = (paths.PretrainPaths("shapes", "conv4", name, 1) for name in ("relational", "large"))
    monkeypatch.setattr(
        machine_checks,
        "_memory_bytes",
        lambda device: estimate_min_step_bytes(params, small.backbone, small.dataset, 32 * 4, params.precision),
    )
    if variable:
        monkeypatch.setenv(variable, "1")
    if checks_own_run := variable or num_processes > 1:
        usage = shutil.disk_usage(".")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))  # not checked in a job
    else:
        with pytest.raises(UserError, match=r"a training step of large on shapes .* this machine has"):
            _check_pretraining(params, small, "cpu", num_processes, Path("params.yaml"))
    with pytest.raises(UserError, match="so this stage was not started:\na training step of large on shapes"):
        _check_pretraining(params, large, "cpu", num_processes, Path("params.yaml"))
    if checks_own_run:
        _check_pretraining(params, small, "cpu", num_processes, Path("params.yaml"))
        # Problems with labels and numbers of images do not depend on the machine, so the whole grid is checked.
        params = load(project, lambda params: (change(params), params["protocols"]["knn"].update(neighbors=201)))
        with pytest.raises(UserError, match="neighbors: 201 exceeds"):
            _check_pretraining(params, small, "cpu", num_processes, Path("params.yaml"))


def test_minimum_memory_is_counted_by_hand(project: Path) -> None:
    # Conv-4: 24,648 weights, and 8 · 32² + 16 · 16² + 32 · 8² + 64 · 4² outputs of convolutions.
    outputs = 8 * 32**2 + 16 * 16**2 + 32 * 8**2 + 64 * 4**2
    params = load(project)
    needed = [estimate_min_step_bytes(params, "conv4", "shapes", 10, dtype) for dtype in ("float32", "bfloat16")]
    assert needed == [8 * 24_648 + 10 * (4 * 3 * 32**2 + size * outputs) for size in (4, 2)]


def test_finetuning_that_does_not_fit_in_memory_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(params: dict) -> None:
        params["methods"]["relational"].update(batch_size=8, views=2)
        params["protocols"]["finetune"]["batch_size"] = 64
        params["grid"].update(method=["relational"], target=["shapes"], protocol=["knn", "finetune"])

    params = load(project, change)
    needed = estimate_min_step_bytes(params, "conv4", "shapes", 64, "float32")
    monkeypatch.setattr(machine_checks, "_memory_bytes", lambda device: needed)
    assert find_machine_problems(params, "cpu") == []
    monkeypatch.setattr(machine_checks, "_memory_bytes", lambda device: needed - 1)
    (problem,) = find_machine_problems(params, "cpu")
    assert problem.startswith("a step of the finetune protocol on shapes with conv4 (64 views of 32 x 32 pixels) needs")
    assert "lower batch_size of protocols.finetune, or image_size of datasets.shapes" in problem
    # With 20 of the 200 labels, a mini-batch has only 20 images.
    few = load(project, lambda params: (change(params), params["protocols"]["finetune"].update(label_fraction=0.1)))
    assert find_machine_problems(few, "cpu") == []


def test_disk_space_is_that_of_the_disk_of_each_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load(project, lambda params: params["grid"].update(method=["random"]))
    (tmp_path / "large").mkdir()
    for name in ("data", "runs"):
        Path(name).symlink_to(tmp_path / "large")
    usage = shutil.disk_usage(".")
    is_mount = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "large" or is_mount(path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9 * (path == tmp_path / "large")))
    assert find_machine_problems(params, "cpu") == []
    Path("runs").unlink()
    (problem,) = find_machine_problems(params, "cpu")
    assert str(tmp_path / "large") not in problem


def test_grid_that_does_not_fit_on_the_disk_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(project, lambda params: params["grid"].update(method=["random"], seed=[1, 2]))
    needed = 250 * 32 * 32 * 3 + 2 * 4 * 24_648 + 2 * 4 * 64 * 250
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert find_machine_problems(params, "cpu") == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    (problem,) = find_machine_problems(params, "cpu")
    assert "the grid's betons, weights and features need 0.0 GB on the disk at " in problem
    run = make_convert_run(params, "shapes")
    run.folder.mkdir(parents=True)
    for parameters, expected in ((run.params, []), ({}, [problem])):  # with other parameters, it is converted again
        record = {"params": parameters, "inputs": {}, "code": {}, "outputs": {}}
        paths.record_file(run.folder).write_text(json.dumps(with_digest(record)))
        assert find_machine_problems(params, "cpu") == expected


def test_outputs_that_will_be_replaced_need_little_more_space(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(project, lambda params: params["grid"].update(method=["random"], seed=[1, 2, 3]))
    features = 4 * 64 * 250
    for extraction in grid.extractions(params):
        extraction.folder.mkdir(parents=True)
        extraction.folder.joinpath("features.safetensors").write_bytes(bytes(features))
    # The old features of a run are deleted only after the new ones have been written.
    needed = 250 * 32 * 32 * 3 + 3 * 4 * 24_648 + features
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert find_machine_problems(params, "cpu") == []
    # The free space changes during the check, but all folders are on the same disk.
    free = itertools.count(needed - 1, -1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    assert len(find_machine_problems(params, "cpu")) == 1
