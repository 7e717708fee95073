"""The training loop, which is the same for every method.

The image order depends only on (seed, epoch). A view depends only on (seed, epoch, image, view number), and a method's
random inputs depend only on (seed, epoch, step). A killed run that continues from its checkpoint therefore produces the
same results as an uninterrupted run.
"""

import csv
import io
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rr import backbones, methods, paths
from rr.backbones.weights import find_non_finite, save_backbone
from rr.compute.device import compile_for_gpu
from rr.compute.optimizers import make_optimizer, set_learning_rates
from rr.compute.process_group import ProcessGroup
from rr.compute.torch_threads import single_threaded
from rr.data.beton import Beton
from rr.data.label_fraction import keep_label_fraction
from rr.data.photograph_beton import open_split
from rr.data.view_loader import Batch, ViewLoader
from rr.errors import UserError
from rr.evaluate.feature_extraction import extract_features
from rr.methods.base import Method, check_loss_result, check_pseudo_labels, check_saved_layers
from rr.methods.initial_weights import load_initial_weights
from rr.methods.requirements import data_requirements, find_training_problem, images_per_epoch
from rr.params import ExtensionConfig
from rr.params.methods import TrainableConfig
from rr.pretrain.checkpoint import (
    SECONDS_BETWEEN_CHECKPOINTS,
    TrainState,
    choose_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_epoch_start,
)
from rr.pretrain.data_parallel import DataParallelMethod, check_world_size
from rr.pretrain.dynamics import COLUMNS, DynamicsMonitor
from rr.pretrain.job import Job
from rr.pretrain.view_grid import save_view_grid
from rr.runtime.atomic import atomic_write, write_text
from rr.runtime.hashing import file_sha256
from rr.runtime.machine import RESULT_PACKAGES
from rr.runtime.progress import Progress
from rr.runtime.signals import defer_signals, exit_for_signal
from rr.views.torch_views import to_device

# This metric counts the steps with a finite loss. If the loss diverges, the count is the index (from 0) of the first
# step whose loss is not finite.
_FINITE = "finite"
# Names that a method's metrics must not have: the other columns of the history, and `_FINITE`.
RESERVED_METRICS = frozenset({"epoch", "loss", _FINITE, "views", "pairs", *COLUMNS})


def pretrain(
    job: Job,
    beton: Path,
    outputs: paths.PretrainPaths,
    *,
    device: str,
    threads: int,
    group: ProcessGroup | None = None,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    session: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the backbone of `job`, and write its weights, the history and an image of views.

    The state at the start of the last epoch is also written. The checkpoints remain; after writing the run's record,
    the caller must call `finish_checkpoints`.

    Args:
        job: the description of the run.
        beton: the file with the training images.
        outputs: the paths of the files to write.
        device: a torch device.
        threads: number of threads that read images.
        group: the processes that train together; only the main process writes. Defaults to a single process.
        on_step: a function to call after each step with the number of views in that step. If it is set, no progress is
            displayed. An exception that it raises ends the run.
        on_epoch: a function to call in the main process at the start and after each epoch, with the history so far.
        session: facts about this process, as JSON values. Checkpoints store them for the record of an interrupted run.

    Returns:
        Entries for the run's record: the duration of each epoch, the number of views, the views per second, and the
        sessions of the run (see `TrainState`). The last session is that of this process.

    Raises:
        UserError: if the method cannot be trained on this data or with this number of processes, if its initial weights
            cannot be loaded, if training diverges, or if a user-defined method or backbone is invalid or returns an
            invalid result.
    """
    group = group or ProcessGroup()
    torch.manual_seed(job.seed)
    data = open_split(beton, job.preprocessing, threads=threads)
    if problem := find_training_problem(job.method, data.labels, job.num_classes):
        raise UserError(f"{data.path}: {problem}")
    backbone = backbones.build(job.backbone, job.preprocessing.image_size, job.backbone_config)
    if isinstance(job.method, TrainableConfig) and job.method.initial_weights:
        load_initial_weights(job.method.initial_weights, backbone)
    parallel = DataParallelMethod(group, backbone) if group.world_size > 1 else None
    method = methods.build(job.method, backbone, job.num_classes, len(data)).to(device)
    if job.backbone_config:
        backbones.check_output(backbone, job.backbone_config.kind, job.preprocessing.image_size, device)
    check_saved_layers(job.method.kind, method, job.num_classes)
    if name := find_non_finite(method):
        raise UserError(
            f"{job.method.kind} with {job.backbone}: {name} contains NaN or infinity before the first step: use finite "
            "numbers or, if they are infinite on purpose, register the buffer with persistent=False"
        )
    trainer = None
    if isinstance(job.method, TrainableConfig):
        trainer = Trainer(job, method, data, outputs.checkpoint, device, group, parallel, on_step, on_epoch)
        trainer.restore()
    state = trainer.state if trainer else TrainState(sessions=[{}])
    state.sessions[-1] |= session or {}
    if group.is_main and (changes := describe_changes(state.sessions)):
        print(
            f"pretrain: the result may differ slightly from that of an uninterrupted run ({changes})", file=sys.stderr
        )
    if group.is_main:
        save_view_grid(data, job, outputs.views)
    if trainer:
        trainer.run()
    if group.is_main:
        write_text(outputs.history, format_history(state.history))
        save_method(method, job, outputs.weights)
        with atomic_write(outputs.last_epoch) as temporary:
            if state.epoch:
                shutil.copyfile(paths.last_epoch_start(outputs.checkpoint, job.fingerprint), temporary)
            else:  # a method that is not trained
                temporary.write_bytes(safetensors.torch.save({}))
    seconds = sum(state.epoch_seconds)
    return {
        "epoch_seconds": [round(second, 3) for second in state.epoch_seconds],
        "views": state.num_views,
        "views_per_second": round(state.num_views / seconds) if seconds else 0,
        "sessions": state.sessions,
    }


class Trainer:
    """Train a method to its last epoch. To continue an interrupted run, call `restore` first.

    Args:
        job: the description of the run.
        method: the job's method, on `device`.
        data: the training split.
        checkpoint: the path of the newest checkpoint.
        device: a torch device.
        group: the processes that train together.
        parallel: the data-parallel counterpart of `method` if there are several processes.
        on_step: see `pretrain`.
        on_epoch: see `pretrain`.

    Raises:
        UserError: if the method cannot be trained with that number of processes.
    """

    def __init__(
        self,
        job: Job,
        method: Method,
        data: Beton,
        checkpoint: Path,
        device: str,
        group: ProcessGroup,
        parallel: DataParallelMethod | None = None,
        on_step: Callable[[int], None] | None = None,
        on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    ) -> None:
        self.start_time = time.monotonic()
        config = job.method
        assert isinstance(config, TrainableConfig)
        self.job, self.config, self.method, self.data = job, config, method, data
        self.device, self.group, self.on_step, self.on_epoch = device, group, on_step, on_epoch
        self.progress: Progress | None = None
        self.signals: list[int] = []  # those received while the loop runs
        self.last_checkpoint_time = self.epoch_start = self.start_time
        self.checkpoint = checkpoint
        self.num_images = images_per_epoch(job.method, len(data))
        if parallel:
            check_world_size(config.kind, method, group.world_size, self.num_images, config.batch_size)
        self.optimizer = make_optimizer(config.optimizer, [(method.parameters(), config.learning_rate)])
        self.steps_per_epoch = math.ceil(self.num_images / config.batch_size)
        self.loader = ViewLoader(
            data, job.preprocessing, config.augmentations, num_views=config.views, batch_size=config.batch_size,
            seed=job.seed, device=device, local_slice=group.local_slice,
        )  # fmt: skip
        label_fraction = data_requirements(job.method).label_fraction
        self.labels = keep_label_fraction(data.labels, label_fraction, job.seed)
        self.monitor = DynamicsMonitor(job.dynamics, data, job.preprocessing, job.seed, device)
        if parallel:
            parallel.wrap(method, may_skip_parameters=isinstance(config, ExtensionConfig))
        forward = partial(_forward, config.kind, parallel or method, self.loader.augment, job.precision)
        self.forward = forward if parallel else compile_for_gpu(forward, device)
        self.state = TrainState(sessions=[{}])
        method.train()

    def restore(self) -> None:
        """Continue from the run's checkpoint, or from that of a run with a different number of epochs, if there is one.

        Raises:
            UserError: if the file with the state before the last epoch is missing, or if the checkpoints differ between
                processes.
        """
        file, fingerprint, num_epochs = self.checkpoint, self.job.fingerprint, self.config.epochs
        if self.group.is_main:
            choose_checkpoint(file, fingerprint, self.job.fingerprint_without_epochs, num_epochs)
        self.group.barrier()
        if self.group.world_size > 1:
            files = (file, paths.previous_checkpoint(file))
            hashes = {f"checkpoint {path}": file_sha256(path) if path.is_file() else "" for path in files}
            self.group.check_identical(hashes)
        self.state = state = load_checkpoint(file, fingerprint, self.method, self.optimizer, num_epochs)
        state.metric_sums = {name: total.to(self.device) for name, total in state.metric_sums.items()}
        state.sessions.append({})
        start = paths.last_epoch_start(file, fingerprint)
        has_started_last_epoch = state.position > (num_epochs - 1, 0)
        if has_started_last_epoch and not start.is_file():
            raise UserError(
                f"{start} is missing: delete {file} and {paths.previous_checkpoint(file)}, and run the command again, "
                "which trains these epochs again"
            )

    def run(self) -> None:
        """Run the remaining epochs. After a signal, save a checkpoint and end the program.

        Raises:
            UserError: if the loss, a weight or a representation is NaN or infinite, or if a user-defined method returns
                an invalid result.
        """
        state, config = self.state, self.config
        images_done = state.epoch * self.num_images + min(state.step * config.batch_size, self.num_images)
        with ExitStack() as stack:
            # torchrun forwards a signal to all processes, even if they have already received it.
            self.signals = stack.enter_context(defer_signals(second_sigint_raises=self.group.world_size == 1))
            if self.on_step is None:
                num_views = config.epochs * self.num_images * config.views
                progress = Progress("pretrain", num_views, "views", images_done * config.views)
                self.progress = stack.enter_context(progress)
            self.last_checkpoint_time = time.monotonic()
            self.call_on_epoch()
            while state.epoch < config.epochs:
                self.run_epoch()

    def run_epoch(self) -> None:
        """Run the remaining steps of the current epoch, add a row to the history and save a checkpoint."""
        state = self.state
        self.epoch_start = time.monotonic() - state.seconds
        self.prepare_epoch()
        for batch in self.loader.iter_epoch(state.epoch, state.step, self.num_images):
            self.run_step(batch)
            # Do not save a checkpoint after the last step: it would lack the gradients, which the monitor needs.
            if state.step * self.config.batch_size < self.num_images:
                self.save_if_due_and_exit_on_signal()
        state.num_views += self.num_images * self.config.views
        row = self.finish_epoch()
        self.call_on_epoch()
        is_saved = self.save()
        signal_number, _ = self.group.sync_stop_and_save(self.signals, True)
        self.exit_on_signal(signal_number, is_saved)
        if self.progress:
            note = f"epoch {state.epoch}/{self.config.epochs}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}"
            self.progress.advance(0, note)

    def prepare_epoch(self) -> None:
        """Set the method's epoch, save the state before the last epoch, and compute pseudo-labels, if any."""
        state, method = self.state, self.method
        method.epoch = state.epoch
        if state.step == 0:
            if state.epoch == self.config.epochs - 1 and self.group.is_main:
                start = paths.last_epoch_start(self.checkpoint, self.job.fingerprint)
                save_epoch_start(start, method, self.optimizer)
            seed = int(np.random.SeedSequence([self.job.seed, state.epoch]).generate_state(1)[0])
            was_training = method.training
            method.eval()
            labels = method.update_pseudo_labels(self.extract_finite_features, seed)
            state.labels = check_pseudo_labels(self.config.kind, labels, len(self.data))
            method.train(was_training)
        self.loader.set_labels(self.labels if state.labels is None else self.group.broadcast(state.labels).numpy())

    def extract_finite_features(self) -> Tensor:
        """Return the representations of all training images, float32 (N, D) on the CPU.

        Raises:
            UserError: if a value is NaN or infinite.
        """
        features = extract_features(self.method.backbone, self.data, self.job.preprocessing, self.device).cpu()
        if not features.isfinite().all():
            raise self.divergence_error(f"a representation is NaN or infinite before epoch {self.state.epoch + 1}")
        return features

    def run_step(self, batch: Batch) -> None:
        """Update the weights with one mini-batch."""
        state, method = self.state, self.method
        num_images = len(batch.labels)
        epoch = state.epoch + state.step / self.steps_per_epoch
        method.progress = epoch / self.config.epochs
        set_learning_rates(self.optimizer, self.config.schedule, epoch, self.config.epochs)
        generator = torch.Generator().manual_seed(_step_seed(self.job.seed, state.epoch, state.step))
        # For networks with dropout: each process draws its own masks, which do not depend on the random inputs.
        torch.manual_seed(_step_seed(self.job.seed, state.epoch, state.step, self.group.rank + 1))
        random_inputs = tuple(
            to_device(tensor.numpy(), self.loader.device)
            for tensor in method.sample_random_inputs(num_images, generator)
        )
        loss, metrics = self.forward(batch.inputs, batch.labels, random_inputs)
        if loss_is_on_host(loss) and not math.isfinite(loss.item()):
            raise self.loss_error(loss.item(), state.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if state.epoch == state.step == 0:
            gradients = [weight.grad for weight in method.backbone.parameters()]
            if gradients and all(gradient is None for gradient in gradients):
                raise UserError(f"{self.config.kind}: the loss of the first step does not depend on the backbone")
        with single_threaded():
            self.optimizer.step()
        method.after_step()
        sums = state.metric_sums  # on the device, so no step waits for the device
        for name, pair in metrics.items():
            sums[name] = sums[name] + pair if name in sums else pair.clone()
        state.step += 1
        state.num_pairs += method.count_pairs(num_images)
        num_views = num_images * self.config.views
        if self.on_step:
            self.on_step(num_views)
        if self.progress:
            self.progress.advance(num_views)

    def save_if_due_and_exit_on_signal(self) -> None:
        """Save a checkpoint if one is due or if a signal was received. After a signal, end the program."""
        is_due = time.monotonic() - self.last_checkpoint_time >= SECONDS_BETWEEN_CHECKPOINTS
        signal, save_due = self.group.sync_stop_and_save(self.signals, is_due)
        if signal or save_due:
            self.state.seconds = time.monotonic() - self.epoch_start
            self.exit_on_signal(signal, self.save())

    def finish_epoch(self) -> dict[str, float]:
        """Add a row to the history, measure the dynamics if due, and advance to the next epoch.

        Raises:
            UserError: if the loss or a weight is NaN or infinite.
        """
        state = self.state
        num_finite = int(state.metric_sums.pop(_FINITE)[0])  # waits until a GPU has completed all steps
        seconds = time.monotonic() - self.epoch_start
        row: dict[str, float] = {"epoch": state.epoch + 1}
        for name, sums in state.metric_sums.items():
            numerator, denominator = sums.tolist()
            row[name] = numerator / denominator if denominator else math.nan
        row |= {"views": state.num_views, "pairs": state.num_pairs}
        if not math.isfinite(row["loss"]):
            # The sum of finite losses can also be infinite.
            raise self.loss_error(row["loss"], min(num_finite + 1, state.step))
        # This check ensures that everything computed between two epochs uses only finite weights.
        if tensor_name := find_non_finite(self.method):
            raise self.divergence_error(f"{tensor_name} contains NaN or infinity after epoch {state.epoch + 1}")
        state.history.append(row)
        state.epoch_seconds.append(seconds)
        state.epoch, state.step, state.seconds, state.labels, state.metric_sums = state.epoch + 1, 0, 0.0, None, {}
        if self.monitor.every_n_epochs:
            is_due = self.monitor.is_due(state.epoch) and self.group.is_main
            row.update(self.monitor.measure(self.method) if is_due else dict.fromkeys(COLUMNS, math.nan))
        return row

    def call_on_epoch(self) -> None:
        """Pass the history to the caller of `pretrain`, in the main process."""
        if self.on_epoch and self.group.is_main:
            self.on_epoch(self.state.history)

    def save(self) -> bool:
        """Save a checkpoint in the main process. Return whether it was written; it is not if training has diverged."""
        is_saved = False
        if self.group.is_main:
            self.state.sessions[-1]["seconds"] = round(time.monotonic() - self.start_time, 3)
            is_saved = save_checkpoint(
                self.checkpoint, self.job.fingerprint, self.state, self.method, self.optimizer,
                self.job.fingerprint_without_epochs,
            )  # fmt: skip
        self.last_checkpoint_time = time.monotonic()
        return is_saved

    def exit_on_signal(self, signal_number: int, is_saved: bool) -> None:
        """End the program, unless `signal_number` is 0. `is_saved` is the result of `save`, for the message."""
        if signal_number:
            self.group.barrier()  # torchrun ends all processes when the first one ends, so wait for the main process
            result = f"saved {self.checkpoint}" if is_saved else "nothing was saved, because training has diverged"
            print(f"pretrain: stopping {self.state.describe_position(self.config.epochs)}; {result}", file=sys.stderr)
            exit_for_signal(signal_number)

    def loss_error(self, loss: float, step: int) -> UserError:
        """Return the error for a loss that is NaN or infinite at `step`, which is counted from 1."""
        return self.divergence_error(f"the loss is {loss} in epoch {self.state.epoch + 1} at step {step}")

    def divergence_error(self, problem: str) -> UserError:
        """Return the error for a training run that has diverged; `problem` says what is NaN or infinite."""
        kept = f" (the last good checkpoint is kept in {self.checkpoint})" if self.checkpoint.is_file() else ""
        return UserError(
            f"{problem}: lower the method's learning_rate in params.yaml and run the command again, which starts "
            f"training from the beginning{kept}"
        )


def describe_changes(sessions: Sequence[Mapping[str, Any]]) -> str:
    """Return what differs between the last session and the others and can affect rounding.

    An example of the result is `torch: 2.11.0, now 2.12.1`.
    """

    def list_facts(session: Mapping[str, Any]) -> dict[str, Any]:
        machine = session.get("machine", {})
        facts = {"device": session.get("device"), "processes": session.get("processes")}
        versions = {name: machine.get("versions", {}).get(name) for name in RESULT_PACKAGES}
        return facts | {"processor": machine.get("processor"), **versions}

    *earlier, now = map(list_facts, sessions)
    changes = (
        f"{name}: {value}, now {now.get(name)}"
        for facts in earlier
        for name, value in facts.items()
        if value not in (None, now.get(name))
    )
    return "; ".join(dict.fromkeys(changes))


def loss_is_on_host(loss: Tensor) -> bool:
    """Return whether the loss can be read without waiting for a device."""
    return loss.device.type == "cpu"


def _step_seed(*numbers: int) -> int:
    """Return the seed of a step: the numbers, hashed to the 32 bits that torch uses."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _forward(
    kind: str,
    method: Method | DataParallelMethod,
    augment: Callable[..., Tensor],
    precision: str,
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    random_inputs: tuple[Tensor, ...],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a mini-batch, and the numerator and denominator of each metric as float64 (2,).

    On a GPU, this function is compiled unless several processes train together.
    """
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        result = method.loss(augment(*inputs), labels, random_inputs)
    loss, metrics = check_loss_result(kind, result, RESERVED_METRICS)
    num_images = len(labels)
    pairs = {"loss": (loss.detach() * num_images, num_images), _FINITE: (loss.detach().isfinite(), 1), **metrics}
    return loss, {
        name: torch.stack(
            [torch.as_tensor(value, dtype=torch.float64, device=labels.device).detach() for value in pair]
        )
        for name, pair in pairs.items()
    }


def save_method(method: Method, job: Job, path: Path) -> None:
    """Save the backbone of a trained method, along with the layers that are stored with it."""
    layers = {"trained_classifier": method.trained_classifier, "relation_head": method.relation_head}
    save_backbone(
        method.backbone, path, job.preprocessing,
        layers={name: layer for name, layer in layers.items() if layer is not None},
        aggregation=method.relation_head.aggregation if method.relation_head else None,
    )  # fmt: skip


def format_history(history: list[dict[str, float]]) -> str:
    """Return the history as CSV, one row per epoch. Floats keep all digits, so identical runs give identical files."""
    text = io.StringIO()
    # A user-defined method may return different metrics in later epochs.
    columns = list(dict.fromkeys(name for row in history for name in row)) or ["epoch", "loss", "accuracy"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    # Readers interpret an empty cell as a missing value. The string "nan" would turn the column into text.
    writer.writerows({key: value if math.isfinite(value) else "" for key, value in row.items()} for row in history)
    return text.getvalue()
