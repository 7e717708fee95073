"""Shared helpers: a small project to run commands in, and an environment without network access or user settings."""

import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ruamel.yaml import YAML

from rr.data import raw
from rr.data.shapes import CLASS_NAMES, generate_shapes
from rr.errors import UserError

ROOT = Path(__file__).parents[1]
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# `rr` sets this too. Otherwise, two test processes on two cores would mostly be busy waiting in OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Block the network in this process and in every Python process that a test starts.
OFFLINE_SITE = Path(__file__).parent / "offline/sitecustomize.py"
runpy.run_path(str(OFFLINE_SITE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE_SITE.parent), os.environ.get("PYTHONPATH")]))
os.environ["DVC_NO_ANALYTICS"] = "1"
# Remove the user's settings, and those of torchrun, from the environment.
for variable in (
    "RR_PARAMS", "RR_DEVICE", "RR_GPUS", "RR_SCRATCH", "RR_BENCH_DATA", "RR_ENGINE", "RR_TENSORBOARD", "DVC_STAGE",
    "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST", "RANK",
    "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK",
    "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT", *(name for name in os.environ if name.startswith("TORCHELASTIC_")),
):  # fmt: skip
    os.environ.pop(variable, None)

PAPER_AUGMENTATION = {
    "crop": "resized", "flip": 0.5, "jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8,
    "hue": 0.2, "grayscale": 0.2,
}  # fmt: skip
SMALL_PARAMS = {
    "grid": {
        "data": ["shapes"],
        "dataset": ["shapes"],
        "backbone": ["conv4"],
        "method": ["random", "relational"],
        "seed": [1],
        "target": ["shapes"],
        "protocol": ["linear", "knn"],
    },
    "threads": 2,
    "precision": "float32",
    "dynamics": {"every_n_epochs": 0, "images": 100},
    "datasets": {
        "shapes": {
            "source": {"kind": "shapes", "train": 200, "test": 50, "seed": 0},
            "image_size": 32,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        }
    },
    "backbones": {},
    "methods": {
        "random": {"kind": "random"},
        "supervised": {
            "kind": "supervised", "augmentation": {"crop": "padded", "padding": 0.125, "flip": 0.5}, "views": 1,
            "batch_size": 64, "epochs": 2, "learning_rate": 0.1,
            "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0},
            "schedule": {"kind": "steps", "warmup_epochs": 0, "milestones": [0.5], "lr_decay": 0.1},
        },
        "relational": {
            "kind": "relational", "augmentation": PAPER_AUGMENTATION, "views": 4, "batch_size": 32, "epochs": 3,
            "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0,
            "alpha": 0.5, "negatives": "roll", "label_fraction": 0.0,
        },
    },
    "protocols": {
        "linear": {"kind": "linear", "label_fraction": 1.0, "epochs": 5, "batch_size": 64, "learning_rate": 0.001},
        "knn": {"kind": "knn", "neighbors": 5, "temperature": 0.1},
        "finetune": {
            "kind": "finetune", "label_fraction": 1.0, "augmentation": {"flip": 0.5, "erase": 0.5, "erase_area": 0.25},
            "epochs": 1, "batch_size": 64, "backbone_lr": 0.0003, "classifier_lr": 0.001,
            "optimizer": {"kind": "adam", "weight_decay": 0.00001},
            "schedule": {"kind": "steps", "warmup_epochs": 0, "milestones": [0.5], "lr_decay": 0.1},
        },
        "retrieval": {"kind": "retrieval", "distance": "cosine", "cutoffs": [1, 5]},
        "embedding": {"kind": "embedding", "images": 40, "perplexity": 5.0, "augmentation": PAPER_AUGMENTATION},
    },
}  # fmt: skip


# In a long run, tests cover every combination of parameters, and the fuzz tests have more rounds.
LONG = bool(os.environ.get("RR_LONG"))


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 120
) -> None:
    """Wait until `condition` returns a true value. Fail after some seconds, or if the process ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.002)


def select_pairs(first: Iterable[Any], second: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return all pairs in a long run (RR_LONG=1); otherwise, return a few pairs that cover every value."""
    a, b = list(first), list(second)
    if LONG:
        return list(itertools.product(a, b))
    return [(a[i % len(a)], b[i % len(b)]) for i in range(max(len(a), len(b)))]


@contextmanager
def mount_tmpfs(folder: Path, options: str) -> Iterator[None]:
    """Mount a small disk at `folder` while the body runs."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        disk = os.statvfs(folder)
        if disk.f_blocks * disk.f_frsize > 128 << 20:  # some sandboxes ignore the size
            pytest.skip("this system does not limit the size of a tmpfs")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def call_after_checkpoints(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Path, Any], None], *, after_every_step: bool = True
) -> None:
    """Call `function` with the path and the training state after each checkpoint.

    Training saves one after each epoch and, unless `after_every_step` is False, after each step.
    """
    from rr.pretrain import loop

    save = loop.save_checkpoint

    def save_and_call(path: Path, fingerprint: str, state: loop.TrainState, *rest: Any) -> bool:
        is_saved = save(path, fingerprint, state, *rest)
        function(path, state)
        return is_saved

    monkeypatch.setattr(loop, "save_checkpoint", save_and_call)
    if after_every_step:
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Save a checkpoint after every step, and raise KeyboardInterrupt after the checkpoint at this position."""

    def interrupt(path: Path, state: Any) -> None:
        if (state.epoch, state.step) == (epoch, step):
            raise KeyboardInterrupt

    call_after_checkpoints(monkeypatch, interrupt)


def error_of(call: Callable[[], object], expected: str) -> str:
    """Check that the call raises a UserError that contains `expected`, and return its message."""
    with pytest.raises(UserError) as caught:
        call()
    assert expected in str(caught.value)
    return str(caught.value)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path = Path("executed")) -> None:
        self.folder = folder.absolute()

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


class Outcome(NamedTuple):
    """A command's exit code and output."""

    code: int
    out: str
    err: str


RunRr = Callable[..., Outcome]


def write_params(folder: Path, change: Callable[[dict], None] | None = None) -> None:
    """Write a copy of SMALL_PARAMS to params.yaml in `folder`. `change` may modify the copy in place."""
    # JSON makes separate copies of objects that SMALL_PARAMS uses twice. Otherwise, YAML would write aliases for them.
    params = json.loads(json.dumps(SMALL_PARAMS))
    if change:
        change(params)
    with open(folder / "params.yaml", "w") as file:
        YAML(typ="safe", pure=True).dump(params, file)


def keep_one_evaluation(params: dict) -> None:
    """Reduce the grid to one evaluation of one pretraining run."""
    params["grid"].update(method=["relational"], protocol=["knn"])


def copy_project(folder: Path, change: Callable[[dict], None] | None = None) -> Path:
    """Copy this project to `folder` without ignored files and results, write the small params.yaml, and commit."""
    git = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    for name in git.stdout.split():
        if name.startswith(("runs/", "docs/results/")) or name == "dvc.lock":
            continue  # results that no test needs
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    write_params(folder, change)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def enter_copy(project: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a project, make the copy the current folder until the end of the test, and return it."""
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    return copy


def python_blocks(page: str) -> list[str]:
    """Return the Python blocks in one of this project's Markdown files."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


SIMSIAM = {
    "kind": "simsiam:SimSiam", "augmentation": PAPER_AUGMENTATION, "views": 2, "batch_size": 32, "epochs": 2,
    "learning_rate": 0.001, "hidden_dim": 32, "projection_dim": 16,
}  # fmt: skip


def write_simsiam(folder: Path) -> None:
    """Write the method from docs/guides/add-a-method.md to a folder for extensions."""
    write_example(folder, "add-a-method", "simsiam")


def write_example(folder: Path, guide: str, module: str) -> None:
    """Write the first Python file from a guide to a folder for extensions."""
    code = python_blocks(f"docs/guides/{guide}.md")[0]
    (folder / f"{module}.py").write_text(code)


def write_own_classes(folder: Path) -> None:
    """Write the backbone, the source and the protocol from the guides, and images for the source."""
    for guide, module in (("backbones", "separable"), ("datasets", "medmnist"), ("evaluation", "nearest_mean")):
        write_example(folder, guide, module)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"{split}_images"], labels = generate_shapes(count, 0, split, 16)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(folder.parent / "images.npz", **arrays)


def use_own_classes(params: dict) -> None:
    """Add the backbone, the source and the protocol from the guides to params.yaml and its grid."""
    source = {"kind": "medmnist:MedMnist", "path": "workflow/images.npz", "classes": list(CLASS_NAMES)}
    params["datasets"]["own"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
    params["backbones"]["separable"] = {"kind": "separable:Separable", "width": 8, "blocks": 2}
    params["protocols"]["nearest-mean"] = {"kind": "nearest_mean:NearestMean", "temperature": 0.1}
    for axis, name in (("data", "own"), ("dataset", "own"), ("backbone", "separable"), ("protocol", "nearest-mean")):
        params["grid"][axis].append(name)
    params["grid"]["target"] = ["own"]


def add_dataset(project: Path, source: dict, image_size: int = 16) -> None:
    """Write params.yaml with an additional `mine` dataset whose source is `source`."""

    def change(params: dict) -> None:
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": image_size}

    write_params(project, change)


def open_fetched(project: Path) -> raw.RawFile:
    """Open the file that `rr fetch --dataset mine` wrote."""
    return raw.RawFile(project / "data/raw/mine/images.parquet")


def pretrain_command(method: str = "relational") -> tuple[str, ...]:
    """Return the arguments with which `rr` pretrains on the small dataset."""
    return ("pretrain", "--dataset", "shapes", "--backbone", "conv4", "--method", method, "--seed", "1")


def extract_command(method: str = "relational") -> tuple[str, ...]:
    """Return the arguments of `rr` that extract the features of the small dataset."""
    return ("extract", *pretrain_command(method)[1:], "--target", "shapes")


def evaluate_command(protocol: str, method: str = "relational") -> tuple[str, ...]:
    """Return the arguments with which `rr` evaluates the features of the small dataset."""
    return ("evaluate", *extract_command(method)[1:], "--protocol", protocol)


PRETRAIN = pretrain_command()
EXTRACT = extract_command()
EVALUATE = ("evaluate", *EXTRACT[1:], "--protocol")
