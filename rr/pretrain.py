"""Stage `pretrain`: the one training loop, the same for every method.

It owns optimisation, history and resumption. Order, views and the methods' random numbers are pure functions
of (seed, epoch, step), so a run that was killed continues from its resume file to the same bits.
"""

import csv
import io
import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from rr import backbones, methods, paths
from rr.atomic import replacing, write_text
from rr.contact_sheet import contact_sheet
from rr.data.beton import Beton
from rr.device import compiled, one_thread
from rr.errors import UserError
from rr.feed import Feed
from rr.params import Dataset, Method
from rr.progress import Progress
from rr.views import make_views

SECONDS_BETWEEN_SAVES = 120.0


@dataclass(frozen=True)
class Job:
    """All that determines a pretraining's result, beside the data and the code."""

    dataset: Dataset
    backbone: str
    method: Method
    classes: int
    seed: int
    precision: str
    fingerprint: str  # the hash of everything that a resume file must agree with


@dataclass
class Progressed:
    """How far a run has come, and what it has measured."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # spent in the current epoch by processes before this one
    totals: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)


def pretrain(job: Job, beton: Path, outputs: paths.Pretraining, *, device: str, threads: int) -> dict[str, Any]:
    """Train `job` on the pictures of `beton`; write the backbone, the history and a picture of the views.

    Leaves the resume file, for the caller to remove when all is recorded. Returns facts for the record.
    Raises UserError for a beton that `Beton` refuses, and for a loss that is no longer finite.
    """
    torch.manual_seed(job.seed)
    method = methods.build(job.method, backbones.build(job.backbone), job.classes).to(device)
    data = Beton(beton, threads=threads)
    run = Progressed()
    if job.method.kind != "random":
        _draw_contact_sheet(job, data, outputs.views)
        run = _train(job, method, data, outputs.resume, device)
    else:
        originals, _ = next(data.batches(range(min(48, len(data))), 48))
        contact_sheet(originals, 8, outputs.views)
    write_text(outputs.history, _as_csv(run.history))
    _write_backbone(job, method.backbone, outputs.weights)
    seen = len(data) * getattr(job.method, "views", 0) * len(run.epoch_seconds)
    seconds = sum(run.epoch_seconds)
    return {
        "epoch_seconds": [round(second, 3) for second in run.epoch_seconds],
        "views": seen,
        "views_per_second": round(seen / seconds) if seconds else 0,
    }


def _write_backbone(job: Job, backbone: Any, target: Path) -> None:
    # One key only: safetensors writes several in a random order, and the file is to be the same on every run.
    about = {"backbone": job.backbone, "features": backbone.features}
    state = {name: value.contiguous().cpu() for name, value in backbone.state_dict().items()}
    with replacing(target) as temporary:
        temporary.write_bytes(save(state, metadata={"rr": json.dumps(about)}))


def _train(job: Job, method: Any, data: Beton, resume: Path, device: str) -> Progressed:
    settings: Any = job.method
    epochs, batch_size, K = settings.epochs, settings.batch_size, settings.views
    if settings.kind == "supervised" and (data.labels < 0).any():
        raise UserError("the supervised method needs a label for every picture, and some have none")
    if len(data) % batch_size == 1 and K <= 2:
        raise UserError(
            f"{len(data)} pictures in batches of {batch_size} leave a last batch of one, which has no statistics to "
            "normalise by: change the method's batch_size by one"
        )
    optimiser, schedule = method.optimiser(epochs)
    feed = Feed(data, job.dataset, settings.augmentation, views=K, batch_size=batch_size, seed=job.seed, device=device)
    step = compiled(partial(_forward, method, feed.augment, job.precision), device)
    run = _restore(resume, job.fingerprint, method, optimiser, schedule)
    run.totals = {name: total.to(device) for name, total in run.totals.items()}
    method.train()
    views_done = (run.epoch * len(data) + min(run.step * batch_size, len(data))) * K
    with Progress("pretrain", epochs * len(data) * K, "views", views_done) as progress:
        saved = time.monotonic()
        while run.epoch < epochs:
            clock = time.monotonic() - run.seconds
            for batch in feed.epoch(run.epoch, run.step):
                generator = _generator(job.seed, run.epoch, run.step)
                loss, fractions = step(batch.inputs, batch.labels, generator)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                with one_thread():
                    optimiser.step()
                # Summed on the device: nothing in an epoch waits for it.
                for name, parts in fractions.items():
                    run.totals[name] = run.totals[name] + parts if name in run.totals else parts.clone()
                run.step += 1
                progress.advance(len(batch.labels) * K)
                if time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
                    run.seconds = time.monotonic() - clock
                    _save(resume, job.fingerprint, run, method, optimiser, schedule)
                    saved = time.monotonic()
            row = _finish_epoch(run, time.monotonic() - clock)
            if schedule:
                schedule.step()
            _save(resume, job.fingerprint, run, method, optimiser, schedule)
            saved = time.monotonic()
            progress.advance(0, f"epoch {run.epoch}/{epochs}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}")
    return run


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """A step's own random numbers. torch keeps 32 bits of a seed, so all three are hashed into as many."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0]))


def _forward(
    method: Any, augment: Any, precision: str, inputs: tuple[Tensor, ...], labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch from its inputs to its loss, and each statistic as float64 (part, whole); the compiled part of a step."""
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        loss, statistics = method.loss(augment(*inputs), labels, generator)
    images = len(labels)
    fractions = {"loss": (loss.detach() * images, images), **statistics}
    return loss, {
        name: torch.stack([torch.as_tensor(part, dtype=torch.float64, device=labels.device) for part in parts])
        for name, parts in fractions.items()
    }


def _finish_epoch(run: Progressed, seconds: float) -> dict[str, float]:
    """Turn the totals into a row of the history. Raises UserError when the loss is no longer finite."""
    row: dict[str, float] = {"epoch": run.epoch + 1}
    for name, (part, whole) in ((name, total.tolist()) for name, total in run.totals.items()):
        row[name] = part / whole if whole else math.nan
    if not math.isfinite(row["loss"]):
        raise UserError(
            f"the loss is {row['loss']} in epoch {run.epoch + 1}: lower the method's learning_rate in params.yaml, "
            "then run the same command again"
        )
    run.history.append(row)
    run.epoch_seconds.append(seconds)
    run.epoch, run.step, run.seconds, run.totals = run.epoch + 1, 0, 0.0, {}
    return row


def _save(resume: Path, fingerprint: str, run: Progressed, method: Any, optimiser: Any, schedule: Any) -> None:
    if any(not torch.isfinite(total).all() for total in run.totals.values()):
        return  # never replace a good state by a broken one; the end of the epoch reports it
    state = {
        "fingerprint": fingerprint,
        "run": vars(run),
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict() if schedule else None,
    }
    # Through memory, because torch reports a full disk as a bug of its own.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(resume) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _restore(resume: Path, fingerprint: str, method: Any, optimiser: Any, schedule: Any) -> Progressed:
    """Continue from the resume file, where it belongs to this very job; otherwise begin."""
    fresh = Progressed()
    if not resume.is_file():
        return fresh
    try:
        state = torch.load(resume, weights_only=True, map_location="cpu")
    except Exception as error:  # torch has no single error for a damaged file
        print(f"pretrain: {resume} is damaged ({type(error).__name__}); beginning again")
        return fresh
    if state.get("fingerprint") != fingerprint:
        print(f"pretrain: {resume} belongs to other parameters, data or code; beginning again")
        return fresh
    method.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimiser"])
    if schedule:
        schedule.load_state_dict(state["schedule"])
    run = Progressed(**state["run"])
    print(f"pretrain: continuing in epoch {run.epoch + 1} at step {run.step}")
    return run


def _draw_contact_sheet(job: Job, data: Beton, target: Path) -> None:
    """Show the views of the first pictures as the network sees them, before normalisation."""
    settings: Any = job.method
    images, positions = next(data.batches(range(min(6, len(data))), 6))
    shown = min(settings.views, 8)
    views = make_views(
        images, data.index[positions], augmentation=settings.augmentation, seed=job.seed, epoch=0, views=shown,
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), device="cpu",
    )  # fmt: skip
    pixels = (views.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    by_image = pixels.reshape(shown, len(images), *pixels.shape[1:]).swapaxes(0, 1)
    rows = np.concatenate([images[:, None], by_image], axis=1)
    contact_sheet(rows.reshape(-1, *images.shape[1:]), shown + 1, target)


def _as_csv(history: list[dict[str, float]]) -> str:
    """The history as CSV, one row per epoch; floats in full, so that equal runs give equal files."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]) if history else ["epoch", "loss", "accuracy"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
