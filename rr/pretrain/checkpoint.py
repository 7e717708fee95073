"""Checkpoints: the state of a run, in a file that neither DVC nor Snakemake tracks.

A checkpoint is not an output of its stage, because it is needed only to continue the run, or to train for more epochs.
"""

import hashlib
import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from rr import paths
from rr.backbones.weights import find_non_finite
from rr.runtime.atomic import atomic_write

SECONDS_BETWEEN_CHECKPOINTS = 120.0
"""Time between two checkpoints within an epoch. The training loop also saves one after each epoch."""

_DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass
class TrainState:
    """The progress of a run: its current position and its measurements so far.

    Attributes:
        epoch: number of completed epochs.
        step: number of completed steps in the current epoch.
        seconds: time spent on the current epoch up to the last checkpoint, including the time of earlier processes.
        labels: the pseudo-labels of the current epoch, int64 (N,), or None if the method has none.
        metric_sums: numerator and denominator of each metric, summed over the current epoch, float64 (2,).
        num_views: number of views in all completed epochs.
        num_pairs: number of pairs compared in all completed steps.
        history: one row for each completed epoch.
        epoch_seconds: duration of each completed epoch.
        sessions: a dictionary for each process that has worked on the run, in chronological order. It contains the
            caller's facts and `seconds`, the time from the start of the process to its last checkpoint.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    labels: Tensor | None = None
    metric_sums: dict[str, Tensor] = field(default_factory=dict)
    num_views: int = 0
    num_pairs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def position(self) -> tuple[int, int]:
        """The number of completed epochs, and of completed steps in the current epoch."""
        return self.epoch, self.step

    def describe_position(self, num_epochs: int) -> str:
        """Return the position in a run of `num_epochs` epochs, for a message."""
        return (
            "after the last epoch" if self.epoch == num_epochs else f"in epoch {self.epoch + 1} after step {self.step}"
        )


def save_checkpoint(
    path: Path,
    fingerprint: str,
    state: TrainState,
    method: nn.Module,
    optimizer: Optimizer,
    fingerprint_without_epochs: str = "",
) -> bool:
    """Write a checkpoint atomically, and keep the previous one as `paths.previous_checkpoint(path)`.

    If a weight or the loss is NaN or infinite, nothing is written. The last good checkpoint then remains, and the
    training loop raises an error. See `Job` for the two fingerprints.

    Returns:
        Whether the checkpoint was written.
    """
    if find_non_finite(method) or ("loss" in state.metric_sums and not state.metric_sums["loss"].isfinite().all()):
        return False
    content = {
        "fingerprint": fingerprint,
        "fingerprint_without_epochs": fingerprint_without_epochs,
        "state": vars(state),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    _write_checkpoint(path, content)
    return True


def _write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    # Serialize in memory first, because torch reports a full disk as an internal error.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        with open(temporary, "wb") as file:
            # torch does not detect a flipped bit in a tensor, so the file starts with a hash of the rest.
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        if path.exists():
            os.replace(path, paths.previous_checkpoint(path))


def save_epoch_start(path: Path, method: nn.Module, optimizer: Optimizer) -> None:
    """Write the state before an epoch: the tensors of `method` and `optimizer`.

    Identical states produce byte-identical files.
    """
    tensors = {f"method.{name}": value for name, value in method.state_dict().items()}
    state = optimizer.state_dict()
    for position, values in state["state"].items():
        tensors |= {f"optimizer.{position}.{name}": value for name, value in values.items()}
    # A network may use a module under several names, but safetensors refuses tensors that share memory.
    stored = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(stored))


def load_epoch_start(path: Path, method: nn.Module, optimizer: Optimizer) -> None:
    """Restore `method` and `optimizer`, in place, to the state that `save_epoch_start` wrote."""
    groups = optimizer.state_dict()["param_groups"]
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        kind, _, name = key.partition(".")
        if kind == "method":
            weights[name] = value
        else:
            position, _, name = name.partition(".")
            moments.setdefault(int(position), {})[name] = value
    method.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def choose_checkpoint(path: Path, fingerprint: str, fingerprint_without_epochs: str, num_epochs: int) -> None:
    """Put the checkpoint from which a run can continue at `path`, if there is one, and keep those of other runs.

    If the parameters, the data or the code have changed since a checkpoint was written, it is moved to
    `paths.kept_checkpoint`. It is moved back when the run continues with the earlier parameters, data and code.

    A run may also continue from a copy of the most advanced of these checkpoints: those kept in the run's folder, and
    those of finished runs (`paths.find_finished_checkpoints`), if they have the same `fingerprint_without_epochs` and
    are not after the start of this run's last epoch.

    Args:
        path: the path of the run's newest checkpoint.
        fingerprint: see `Job`.
        fingerprint_without_epochs: see `Job`.
        num_epochs: the run's number of epochs.
    """
    other, own, has_own = None, paths.kept_checkpoint(path, fingerprint), False
    for file in (paths.previous_checkpoint(path), path):  # if both belong to one run, the newer one replaces the older
        checkpoint = _read_checkpoint(file) if file.is_file() else None
        if checkpoint and checkpoint["fingerprint"] == fingerprint:
            has_own = True
        elif checkpoint:
            other = paths.kept_checkpoint(path, checkpoint["fingerprint"])
            os.replace(file, other)
    start = None if has_own else _find_start(path, fingerprint, fingerprint_without_epochs, num_epochs)
    if start and start.path == own:
        os.replace(own, path)
    elif start:
        print(
            f"pretrain: using {start.path}, from a run that differs only in its number of epochs (and possibly in the "
            "method's name)",
            file=sys.stderr,
        )
        _write_checkpoint(path, start.checkpoint | {"fingerprint": fingerprint})
    if other and not (start and other == start.path):
        result = "" if path.is_file() else "; this run starts from the beginning"
        print(
            "pretrain: the parameters, the data or the code have changed, so the earlier checkpoint is kept as "
            f"{other}, to be used again if you undo the change{result}",
            file=sys.stderr,
        )


class _Start(NamedTuple):
    """A checkpoint from which a run can continue."""

    position: tuple[int, int]
    path: Path
    checkpoint: dict[str, Any]


def _find_start(path: Path, fingerprint: str, fingerprint_without_epochs: str, num_epochs: int) -> _Start | None:
    """Return the most advanced checkpoint from which a run can continue, or None; see `choose_checkpoint`."""
    own = paths.kept_checkpoint(path, fingerprint)
    candidates = [own] if own.is_file() else []
    if fingerprint_without_epochs:
        candidates = _list_kept_checkpoints(path)
        candidates += paths.find_finished_checkpoints(path, fingerprint_without_epochs)
    finished = paths.finished_checkpoint(path, fingerprint_without_epochs)
    own_start = other_start = None
    is_repetition = False
    for file in candidates:
        checkpoint = _read_candidate(file)
        # Checkpoints of other versions of the code may have other keys, but never the same fingerprints.
        if not checkpoint or checkpoint.get("fingerprint_without_epochs") != fingerprint_without_epochs:
            continue
        start = _Start(TrainState(**checkpoint["state"]).position, file, checkpoint)
        if file == own:
            own_start = start
        elif file == finished and checkpoint["fingerprint"] == fingerprint:
            is_repetition = True
        # The last epoch of another run must not have started, because the state at its start is an output.
        elif start.position <= (num_epochs - 1, 0) and (not other_start or start.position > other_start.position):
            other_start = start
    # If the run has finished before, it is repeated, so it must not continue from the checkpoint of another run.
    starts = [own_start, None if is_repetition else other_start]
    return max(filter(None, starts), key=lambda start: start.position, default=None)


def _read_candidate(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint that may belong to another run, or None if it cannot be used."""
    try:
        if checkpoint := _read_checkpoint(path):
            return checkpoint
    except FileNotFoundError:
        return None
    except OSError as error:
        print(f"pretrain: the checkpoint {path} cannot be read and is not used ({error.strerror})", file=sys.stderr)
        return None
    print(f"pretrain: the checkpoint {path} is damaged and is not used", file=sys.stderr)
    return None


def _list_kept_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoints in a run's folder that belong to runs with other settings and have not finished."""
    return sorted(set(path.parent.glob(paths.kept_checkpoint(path, "*").name)) - {paths.previous_checkpoint(path)})


def load_checkpoint(
    path: Path, fingerprint: str, method: nn.Module, optimizer: Optimizer, num_epochs: int
) -> TrainState:
    """Load the newest checkpoint that is undamaged and has the same fingerprint.

    The state of `method` and `optimizer` is restored in place. Messages report damaged checkpoints, and the position in
    the run of `num_epochs` epochs at which training continues.

    Returns:
        The training state of that checkpoint, or the initial state if there is no such checkpoint.
    """
    files = [file for file in (path, paths.previous_checkpoint(path)) if file.is_file()]
    for file in files:
        checkpoint = _read_checkpoint(file)
        if checkpoint is None:
            print(f"pretrain: the checkpoint {file} is damaged and is not used", file=sys.stderr)
            continue
        if checkpoint["fingerprint"] != fingerprint:
            continue
        method.load_state_dict(checkpoint["method"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        state = TrainState(**checkpoint["state"])
        print(f"pretrain: continuing {state.describe_position(num_epochs)}", file=sys.stderr)
        return state
    if files:
        print("pretrain: starting from the beginning", file=sys.stderr)
    return TrainState()


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint, or None if it is damaged or unpickling it could run code."""
    content = path.read_bytes()
    if hashlib.sha256(content[_DIGEST_SIZE:]).digest() != content[:_DIGEST_SIZE]:
        return None
    try:
        return torch.load(io.BytesIO(content[_DIGEST_SIZE:]), weights_only=True, map_location="cpu")
    except UnpicklingError:
        return None


def finish_checkpoints(path: Path, fingerprint: str, fingerprint_without_epochs: str) -> None:
    """Delete the files of a run that has just finished, but not those that are kept for a run with other settings.

    The last checkpoint is kept as `paths.finished_checkpoint` if a run with more epochs can continue from it.

    Args:
        path: the path of the run's newest checkpoint.
        fingerprint: see `Job`.
        fingerprint_without_epochs: see `Job`.
    """
    # The checkpoints require the file with the state before the last epoch, so they are deleted first.
    for file in (paths.kept_checkpoint(path, fingerprint), paths.previous_checkpoint(path)):
        file.unlink(missing_ok=True)
    finished = paths.finished_checkpoint(path, fingerprint_without_epochs)
    if fingerprint_without_epochs and path.is_file():
        os.replace(path, finished)
    path.unlink(missing_ok=True)
    for file in set(path.parent.glob(paths.finished_checkpoint(path, "*").name)) - {finished}:
        file.unlink()  # of a run with other settings, whose outputs this run has replaced
    paths.unfinished_history(path).unlink(missing_ok=True)
    for start in path.parent.glob(paths.last_epoch_start(path, "*").name):
        if not paths.kept_checkpoint(path, start.suffixes[0].removeprefix(".")).exists():
            start.unlink()
