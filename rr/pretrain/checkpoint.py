"""A training that stopped goes on: its state in a file, outside what the engines know.

Both engines delete a stage's outputs before they try again, so the state in flight is none of them.
"""

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rr import paths
from rr.runtime.atomic import replacing

_DIGEST = hashlib.sha256().digest_size


@dataclass
class Progressed:
    """How far a run has come, and what it has measured."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # spent in the current epoch by processes before this one
    labels: Tensor | None = None  # of the current epoch, int64 (N,), where the method makes its own
    totals: dict[str, Tensor] = field(default_factory=dict)
    views: int = 0  # seen in all epochs that have ended
    pairs: int = 0  # compared in all steps so far
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)


def save(resume: Path, fingerprint: str, run: Progressed, method: Any, optimiser: Any, schedule: Any) -> None:
    """Write how far the run has come to the file `resume`, all or nothing; a state that is not finite is not saved.

    What stood there before stays beside it as `paths.previous`.
    """
    if not all_finite(method) or any(not torch.isfinite(total).all() for total in run.totals.values()):
        return  # the last good state stays; the loop reports the loss
    # Through memory, because torch reports a full disk as a bug of its own.
    buffer = io.BytesIO()
    torch.save(_state(fingerprint, run, method, optimiser, schedule), buffer)
    with replacing(resume) as temporary:
        with open(temporary, "wb") as file:
            # torch reads back a tensor with a flipped bit without a word, so the file begins with a hash of the rest.
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        if resume.exists():
            os.replace(resume, paths.previous(resume))


def _state(fingerprint: str, run: Progressed, method: Any, optimiser: Any, schedule: Any) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "run": vars(run),
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict() if schedule else None,
    }


def size(method: Any, epochs: int) -> int:
    """Bytes of the last state of a training of `method`, which changes: it makes a step with gradients of zero.

    Without that step the optimiser has no moments yet. Each epoch has a row of the columns that no method lacks.
    """
    optimiser, schedule = method.optimiser(epochs)
    for weights in (weights for group in optimiser.param_groups for weights in group["params"]):
        weights.grad = torch.zeros_like(weights)
    optimiser.step()
    run = Progressed(
        history=[{"epoch": epoch, "loss": 0.5, "accuracy": 0.5, "views": 1e9, "pairs": 1e9} for epoch in range(epochs)],
        epoch_seconds=[0.5 + epoch for epoch in range(epochs)],
    )
    buffer = io.BytesIO()
    torch.save(_state("0" * 64, run, method, optimiser, schedule), buffer)
    return _DIGEST + buffer.getbuffer().nbytes


def all_finite(method: nn.Module) -> bool:
    """Whether no weight of the method has become infinite or NaN."""
    return all(bool(value.isfinite().all()) for value in method.state_dict().values())


def restore(resume: Path, fingerprint: str, method: Any, optimiser: Any, schedule: Any) -> Progressed:
    """Continue from the newest state that is whole and belongs to this very job; without one, begin."""
    files = [file for file in (resume, paths.previous(resume)) if file.is_file()]
    for file in files:
        content = file.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            print(f"pretrain: {file} is damaged")
            continue
        state = torch.load(io.BytesIO(content[_DIGEST:]), weights_only=True, map_location="cpu")
        if state["fingerprint"] != fingerprint:
            print(f"pretrain: {file} belongs to other parameters, data or code")
            continue
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
        if schedule:
            schedule.load_state_dict(state["schedule"])
        run = Progressed(**state["run"])
        print(f"pretrain: continuing in epoch {run.epoch + 1} at step {run.step}")
        return run
    if files:
        print("pretrain: beginning again")
    return Progressed()


def forget(resume: Path) -> None:
    """Remove the states, the older one first: what is left at any moment can be continued."""
    paths.previous(resume).unlink(missing_ok=True)
    resume.unlink(missing_ok=True)
