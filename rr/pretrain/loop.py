"""Stage `pretrain`: the one training loop, the same for every method.

It owns optimisation, history and resumption. Order, views and the methods' random numbers are pure functions
of (seed, epoch, step), so a run that was killed continues from its resume file to the same bits.
"""

import csv
import io
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rr import backbones, methods, paths
from rr.backbones.weights import write_backbone
from rr.compute.device import compiled, one_thread
from rr.compute.distributed import Group
from rr.data.beton import Beton
from rr.data.labels import keep_share
from rr.data.loader import Feed
from rr.errors import UserError
from rr.evaluate.features import extract
from rr.methods.base import Method
from rr.pretrain.checkpoint import Progressed, all_finite, restore, save
from rr.pretrain.checks import check_local_batches, images_per_epoch
from rr.pretrain.data_parallel import Replicas
from rr.pretrain.dynamics import COLUMNS, Observer
from rr.pretrain.job import Job
from rr.runtime.atomic import write_text
from rr.runtime.hashing import sha256
from rr.runtime.image_grid import contact_sheet
from rr.runtime.progress import Progress
from rr.runtime.signals import end, postponed
from rr.views import make_views
from rr.views.torch_ops import upload

SECONDS_BETWEEN_SAVES = 120.0
_FINITE = "finite"  # of an epoch's steps, how many had a finite loss: tells the first bad one without waiting


def pretrain(
    job: Job, beton: Path, outputs: paths.Pretraining, *, device: str, threads: int, group: Group | None = None
) -> dict[str, Any]:
    """Train `job` on the pictures of `beton`; write the backbone, the history and a picture of the views.

    The processes of `group` train together, and the first of them writes; None for one process. Leaves the resume file,
    for the caller to remove when all is recorded. Returns facts for the record. Raises UserError for a beton that
    `Beton` refuses, for a loss that is no longer finite, and for what several processes cannot do.
    """
    group = group or Group()
    torch.manual_seed(job.seed)
    data = Beton(beton, threads=threads)
    backbone = backbones.build(job.backbone)
    replicas = Replicas(group, backbone) if group.size > 1 else None
    method = methods.build(job.method, backbone, job.classes, len(data)).to(device)
    run = Progressed()
    if hasattr(job.method, "epochs"):
        run = _train(job, method, data, outputs, device, group, replicas)
    elif group.first:
        originals, _ = next(data.batches(range(min(48, len(data))), 48))
        contact_sheet(originals, 8, outputs.views)
    if not all_finite(method):
        raise UserError(
            "the last step made weights that are not finite: lower the method's learning_rate in params.yaml and run "
            "the command again"
        )
    if group.first:
        write_text(outputs.history, _as_csv(run.history))
        write_backbone(job.backbone, method.backbone, outputs.weights, job.dataset)
    seen = run.views
    seconds = sum(run.epoch_seconds)
    return {
        "epoch_seconds": [round(second, 3) for second in run.epoch_seconds],
        "views": seen,
        "views_per_second": round(seen / seconds) if seconds else 0,
    }


def _train(
    job: Job, method: Method, data: Beton, outputs: paths.Pretraining, device: str, group: Group,
    replicas: Replicas | None,
) -> Progressed:  # fmt: skip
    settings: Any = job.method
    resume = outputs.resume
    epochs, batch_size, K = settings.epochs, settings.batch_size, settings.views
    images = images_per_epoch(method, data, batch_size)
    if replicas:
        check_local_batches(job, method, group, images)
        group.alike({f"state in {resume}": sha256(resume) if resume.is_file() else ""})
    if group.first:
        _draw_contact_sheet(job, data, outputs.views)
    optimiser, schedule = method.optimiser(epochs)
    feed = Feed(
        data, job.dataset, settings.augmentation, views=K, batch_size=batch_size, seed=job.seed, device=device,
        share=group.share,
    )  # fmt: skip
    feed.use_labels(keep_share(data.labels, method.labelled, job.seed))
    observer = Observer(job.dynamics, data, job.dataset, job.seed, device)
    if replicas:
        replicas.replicate(method)
        step: Any = partial(_forward, replicas, feed.augment, job.precision)
    else:
        step = compiled(partial(_forward, method, feed.augment, job.precision), device)
    run = restore(resume, job.fingerprint, method, optimiser, schedule)
    run.totals = {name: total.to(device) for name, total in run.totals.items()}
    method.train()

    def keep() -> None:
        if group.first:
            save(resume, job.fingerprint, run, method, optimiser, schedule)

    views_done = (run.epoch * images + min(run.step * batch_size, images)) * K
    # Of several processes torchrun passes a signal on to all, who may have got it themselves.
    with (
        postponed(second_acts=group.size == 1) as asked,
        Progress("pretrain", epochs * images * K, "views", views_done) as progress,
    ):
        saved = time.monotonic()
        while run.epoch < epochs:
            clock = time.monotonic() - run.seconds
            _choose_labels(job, run, method, data, feed, device, group)
            for batch in feed.epoch(run.epoch, run.step, images):
                generator = _generator(job.seed, run.epoch, run.step)
                drawn = tuple(
                    upload(numbers.numpy(), feed.device) for numbers in method.draw(len(batch.labels), generator)
                )
                loss, fractions = step(batch.inputs, batch.labels, drawn)
                if reads_at_once(loss) and not math.isfinite(loss.item()):
                    raise _diverged(loss.item(), run, run.step, resume)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                with one_thread():
                    optimiser.step()
                method.after_step()
                # Summed on the device: nothing in an epoch waits for it.
                for name, parts in fractions.items():
                    run.totals[name] = run.totals[name] + parts if name in run.totals else parts.clone()
                run.step += 1
                run.pairs += method.pairs(len(batch.labels))
                progress.advance(len(batch.labels) * K)
                # Not after the last step: its gradients, which the epoch's end may look at, are in no file.
                if run.step * batch_size < images:
                    stop, due = group.agree(asked, time.monotonic() - saved >= SECONDS_BETWEEN_SAVES)
                    if stop or due:
                        run.seconds = time.monotonic() - clock
                        keep()
                        saved = time.monotonic()
                        _end_if(stop, run, resume, group)
            run.views += images * K
            row = _finish_epoch(run, time.monotonic() - clock, resume)
            if observer.every:
                due = observer.is_due(run.epoch) and group.first
                row.update(observer.measure(method) if due else dict.fromkeys(COLUMNS, math.nan))
            if schedule:
                schedule.step()
            keep()
            saved = time.monotonic()
            _end_if(group.agree(asked, True)[0], run, resume, group)
            progress.advance(0, f"epoch {run.epoch}/{epochs}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}")
    return run


def _end_if(number: int, run: Progressed, resume: Path, group: Group) -> None:
    """End where a signal has asked for it, this process or another of the run, after a save."""
    if number:
        group.meet()  # the first has saved: torchrun ends all as soon as one of them has ended
        print(f"pretrain: stopping in epoch {run.epoch + 1} at step {run.step}; the state is in {resume}")
        end(number)


def reads_at_once(loss: Tensor) -> bool:
    """Whether reading a loss costs nothing; elsewhere the epoch's end tells the first bad step."""
    return loss.device.type == "cpu"


def _choose_labels(
    job: Job, run: Progressed, method: Method, data: Beton, feed: Feed, device: str, group: Group
) -> None:
    """Let the method replace the labels of the epoch that begins, or give back those of one that goes on."""
    if run.step == 0:
        seed = int(np.random.SeedSequence([job.seed, run.epoch]).generate_state(1)[0])
        training = method.training
        method.eval()
        run.labels = method.before_epoch(lambda: extract(method.backbone, data, job.dataset, device).cpu(), seed)
        method.train(training)
    if run.labels is not None:
        feed.use_labels(group.from_first(run.labels).numpy())


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """A step's own random numbers. torch keeps 32 bits of a seed, so all three are hashed into as many."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0]))


def _forward(
    method: Method | Replicas,
    augment: Any,
    precision: str,
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    drawn: tuple[Tensor, ...],
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch from its inputs to its loss, and each statistic as float64 (part, whole); the compiled part of a step."""
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        loss, statistics = method.loss(augment(*inputs), labels, drawn)
    images = len(labels)
    fractions = {"loss": (loss.detach() * images, images), _FINITE: (loss.detach().isfinite(), 1), **statistics}
    return loss, {
        name: torch.stack([torch.as_tensor(part, dtype=torch.float64, device=labels.device) for part in parts])
        for name, parts in fractions.items()
    }


def _diverged(loss: float, run: Progressed, step: int, resume: Path) -> UserError:
    kept = f"; the last good state stays in {resume}" if resume.is_file() else ""
    return UserError(
        f"the loss is {loss} in epoch {run.epoch + 1} at step {step + 1}: lower the method's learning_rate in "
        f"params.yaml and run the command again, which begins a new training{kept}"
    )


def _finish_epoch(run: Progressed, seconds: float, resume: Path) -> dict[str, float]:
    """Turn the totals into a row of the history. Raises UserError when the loss is no longer finite."""
    finite = int(run.totals.pop(_FINITE)[0])
    row: dict[str, float] = {"epoch": run.epoch + 1}
    for name, (part, whole) in ((name, total.tolist()) for name, total in run.totals.items()):
        row[name] = part / whole if whole else math.nan
    row |= {"views": run.views, "pairs": run.pairs}
    if not math.isfinite(row["loss"]):
        raise _diverged(row["loss"], run, finite, resume)
    run.history.append(row)
    run.epoch_seconds.append(seconds)
    run.epoch, run.step, run.seconds, run.labels, run.totals = run.epoch + 1, 0, 0.0, None, {}
    return row


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
    # An empty cell is what readers take for "not measured"; a spelt-out nan would make a column of text of it.
    writer.writerows({key: "" if math.isnan(value) else value for key, value in row.items()} for row in history)
    return text.getvalue()
