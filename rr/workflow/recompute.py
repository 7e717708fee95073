"""Rerun the last epoch of a finished run from its saved starting state, to check that the results are the same."""

import csv
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rr import backbones, methods, paths
from rr.compute.device import device_name
from rr.compute.process_group import ProcessGroup
from rr.data.photograph_beton import open_split
from rr.pretrain.checkpoint import load_epoch_start
from rr.pretrain.job import Job
from rr.pretrain.loop import Trainer, format_history, save_method
from rr.runtime.machine import describe_machine, package_versions
from rr.runtime.signals import exit_for_signal

# On a different kind of machine, values are added in a different order, and rounding differences grow with each step.
_TOLERANCES = {"loss": {"rel_tol": 0.02}, "accuracy": {"rel_tol": 0.0, "abs_tol": 0.02}}


@dataclass(frozen=True)
class RecomputedEpoch:
    """The last epoch of a run: the recorded results and those of the rerun.

    Attributes:
        recorded: the epoch's row in the history, as the text of each column.
        repeated: the row that the rerun produces.
        equal_weights: whether the rerun produces the same backbone file, byte for byte.
    """

    recorded: dict[str, str]
    repeated: dict[str, str]
    equal_weights: bool

    @property
    def is_identical(self) -> bool:
        """Whether all results are identical, bit for bit."""
        return find_difference(self, exact=True) is None


def find_difference(epoch: RecomputedEpoch, *, exact: bool) -> str | None:
    """Return a description of the first difference, or None.

    If `exact` is true, all results must be identical, bit for bit. Otherwise, the loss may differ by up to 2% and the
    accuracy by up to 0.02, and nothing else is compared.
    """
    for column, recorded in epoch.recorded.items():
        repeated = epoch.repeated.get(column, "")  # empty for a metric that only earlier epochs have
        if repeated != recorded and (exact or not _is_close(column, recorded, repeated)):
            return f"{column} is {repeated or 'empty'} instead of {recorded or 'empty'}"
    return "the weights differ" if exact and not epoch.equal_weights else None


def _is_close(column: str, recorded: str, repeated: str) -> bool:
    """Return whether two values of a column differ by no more than its tolerance. Other columns are not compared."""
    if column not in _TOLERANCES:
        return True
    if not recorded or not repeated:  # a method may return no accuracy
        return False
    return math.isclose(float(recorded), float(repeated), **_TOLERANCES[column])


class _EpochTrainer(Trainer):
    """Trains without checkpoints, because a repeated epoch cannot be continued."""

    def save(self) -> bool:
        return False

    def exit_on_signal(self, signal_number: int, is_saved: bool) -> None:
        if signal_number:
            exit_for_signal(signal_number)


def recompute_last_epoch(
    job: Job, beton: Path, run: paths.PretrainPaths, *, device: str, threads: int
) -> RecomputedEpoch:
    """Rerun the last epoch of a training run in this process, without changing any of the run's files."""
    recorded = _read_history(run.history.read_text(encoding="utf-8"))
    torch.manual_seed(job.seed)
    data = open_split(beton, job.preprocessing, threads=threads)
    backbone = backbones.build(job.backbone, job.preprocessing.image_size, job.backbone_config)
    method = methods.build(job.method, backbone, job.num_classes, len(data)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _EpochTrainer(job, method, data, Path(folder, "resume.pt"), device, ProcessGroup())
        load_epoch_start(run.last_epoch, method, trainer.optimizer)
        state = trainer.state
        state.epoch = len(recorded) - 1
        if state.epoch:
            state.num_views, state.num_pairs = (int(recorded[-2][column]) for column in ("views", "pairs"))
        trainer.run()
        weights = Path(folder, "backbone.safetensors")
        save_method(method, job, weights)
        equal_weights = weights.read_bytes() == run.weights.read_bytes()
    return RecomputedEpoch(recorded[-1], _read_history(format_history(state.history))[-1], equal_weights)


def compare_with_record(epoch: RecomputedEpoch, record: dict[str, Any], folder: Path, device: str) -> tuple[bool, str]:
    """Return whether an epoch that was rerun on `device` gives the same results as the run in `folder`, and a message.

    They must be identical, bit for bit, if both ran in one process on the same CPU and with the same packages.
    """
    processor, versions = describe_machine()["processor"], package_versions()
    sessions = [*record.get("earlier_sessions", []), record]
    same_device = all((session["device"], session["processes"]) == (device_name(device), 1) for session in sessions)
    # Records written by earlier versions of this project do not list all of these packages.
    same_machine = all(
        session["machine"]["processor"] == processor
        and all(session["machine"]["versions"].get(name, version) == version for name, version in versions.items())
        for session in sessions
    )
    title = f"epoch {epoch.recorded['epoch']} of {folder}"
    # On a GPU, the order of some sums is not deterministic.
    if problem := find_difference(epoch, exact=same_device and same_machine and device == "cpu"):
        return False, (
            f"{title} gives a different result when it is rerun: {problem}. To train this run again, delete "
            f"{folder} and run dvc repro"
        )
    if epoch.is_identical:
        return True, f"verify: {title} was rerun, and the loss, accuracy and weights are the same, bit for bit"
    return True, (
        f"verify: {title} was rerun, and the loss and accuracy are the same within the tolerance for GPUs, for "
        "different machines and for different package versions"
    )


def _read_history(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))
