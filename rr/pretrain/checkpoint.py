"""Checkpoints: the state of an unfinished run, in a file that neither DVC nor Snakemake tracks.

A checkpoint is not an output of its stage, because it exists only until the run is complete.
"""

import hashlib
import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

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

    def position(self, num_epochs: int) -> str:
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
) -> bool:
    """Write a checkpoint atomically, and keep the previous one as `paths.previous_checkpoint(path)`.

    If a weight or the loss is NaN or infinite, nothing is written. The last good checkpoint then remains, and the
    training loop raises an error.

    Returns:
        Whether the checkpoint was written.
    """
    if find_non_finite(method) or ("loss" in state.metric_sums and not state.metric_sums["loss"].isfinite().all()):
        return False
    # Serialize in memory first, because torch reports a full disk as an internal error.
    buffer = io.BytesIO()
    content = {
        "fingerprint": fingerprint,
        "state": vars(state),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        with open(temporary, "wb") as file:
            # torch does not detect a flipped bit in a tensor, so the file starts with a hash of the rest.
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        if path.exists():
            os.replace(path, paths.previous_checkpoint(path))
    return True


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


def set_other_checkpoints_aside(path: Path, fingerprint: str) -> None:
    """Keep the checkpoint of a run with another fingerprint, and restore the one that was kept for this fingerprint.

    If the parameters, the data or the code have changed since a checkpoint was written, it is moved to
    `paths.kept_checkpoint`. It is moved back when the run continues with the earlier parameters, data and code.
    """
    other, own, has_own = None, paths.kept_checkpoint(path, fingerprint), False
    for file in (paths.previous_checkpoint(path), path):  # if both belong to one run, the newer one replaces the older
        checkpoint = _read_checkpoint(file) if file.is_file() else None
        if checkpoint and checkpoint["fingerprint"] == fingerprint:
            has_own = True
        elif checkpoint:
            other = paths.kept_checkpoint(path, checkpoint["fingerprint"])
            os.replace(file, other)
    if not has_own and own.is_file():
        os.replace(own, path)
    if other:
        result = "" if path.is_file() else "; this run starts from the beginning"
        print(
            "pretrain: the parameters, the data or the code have changed, so the earlier checkpoint is kept as "
            f"{other}, to be used again if you undo the change{result}",
            file=sys.stderr,
        )


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
        print(f"pretrain: continuing {state.position(num_epochs)}", file=sys.stderr)
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


def delete_checkpoints(path: Path, fingerprint: str) -> None:
    """Delete the files of an unfinished run, but not those that are kept for a run with another fingerprint.

    The newest checkpoint requires the file with the state before the last epoch, so the checkpoint is deleted first.
    """
    kept = paths.kept_checkpoint(path, fingerprint)
    for file in (kept, paths.previous_checkpoint(path), path, paths.unfinished_history(path)):
        file.unlink(missing_ok=True)
    for start in path.parent.glob(paths.last_epoch_start(path, "*").name):
        if not paths.kept_checkpoint(path, start.suffixes[0].removeprefix(".")).exists():
            start.unlink()
