"""Tests of what the loop does in each step: learning rate, progress, views, precision, and the loss in the history."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import golden
import numpy as np
import pytest
import torch
from golden import PARAMS, small_config
from torch import Tensor

from rr import backbones
from rr.data.view_loader import Batch
from rr.methods.base import Method, Metrics
from rr.methods.supervised import Supervised
from rr.params.optimizers import SGDConfig, SmoothScheduleConfig
from rr.paths import PretrainFolder
from rr.pretrain import Job, pretrain
from rr.pretrain.loop import Trainer, _forward
from rr.views.augmentation import Augmentation

NUM_IMAGES, BATCH_SIZE = 60, 25
STEPS = [25, 25, 10]  # images per step of an epoch


class Step(NamedTuple):
    """What a step used: its learning rate, and the method's progress."""

    learning_rate: float
    progress: float


class LossCall(NamedTuple):
    """A call to `Method.loss`: the views without normalization, the type of the representations, and the loss."""

    views: Tensor
    representation_dtype: torch.dtype
    loss: float


class Recording(NamedTuple):
    """What was observed during a run, and its history."""

    steps: list[Step]
    calls: list[LossCall]
    history: list[dict[str, str]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recording]:
    """Return a function that trains the supervised method with changed settings, and returns what it observed."""
    data = golden.write_images(tmp_path / "train.beton", NUM_IMAGES)
    dataset = PARAMS.datasets["shapes"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    steps: list[Step] = []
    calls: list[LossCall] = []
    run_step, compute_loss = Trainer.run_step, Supervised.loss

    def run_and_record(self: Trainer, batch: Batch) -> None:
        run_step(self, batch)
        steps.append(Step(self.optimizer.param_groups[0]["lr"], self.method.progress))

    def compute_and_record(self: Supervised, views: Tensor, labels: Tensor, random: tuple) -> tuple[Tensor, Metrics]:
        loss, metrics = compute_loss(self, views, labels, random)
        with torch.no_grad():
            dtype = self.backbone(views).dtype
        calls.append(LossCall(views.clone() * std + mean, dtype, loss.item()))
        return loss, metrics

    monkeypatch.setattr(Trainer, "run_step", run_and_record)
    monkeypatch.setattr(Supervised, "loss", compute_and_record)

    def train(epochs: int, precision: str = "float32", **changes: object) -> Recording:
        config = small_config("supervised", epochs=epochs, batch_size=BATCH_SIZE, **changes)
        job = Job(dataset, "conv4", config, 10, 1, precision, golden.NO_DYNAMICS, "test")
        (tmp_path / "run").mkdir()
        outputs = PretrainFolder("shapes", "conv4", "supervised", 1, tmp_path / "run")
        pretrain(job, data, outputs, device="cpu", threads=1)
        with outputs.history.open(newline="") as file:
            return Recording(steps, calls, list(csv.DictReader(file)))

    return train


def test_learning_rate_and_progress_change_with_each_step(record: Callable[..., Recording]) -> None:
    """One epoch of warm-up from 0, then half a cosine over two epochs; each epoch has three steps."""
    steps = record(
        3,
        learning_rate=0.08,
        optimizer=SGDConfig(kind="sgd", momentum=0.9, weight_decay=0.0),
        schedule=SmoothScheduleConfig(kind="cosine", warmup_epochs=1),
    ).steps
    fractions = [0, 1 / 3, 2 / 3, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]
    assert [step.learning_rate for step in steps] == pytest.approx([0.08 * fraction for fraction in fractions])
    assert [step.progress for step in steps] == pytest.approx([number / 9 for number in range(9)])


def test_loss_in_the_history_is_the_mean_over_images(record: Callable[..., Recording]) -> None:
    """The last mini-batch is smaller, so its loss has a smaller weight."""
    recording = record(2, learning_rate=0.01)
    losses = [call.loss for call in recording.calls]
    for epoch, row in enumerate(recording.history):
        values = losses[3 * epoch : 3 * epoch + 3]
        weighted = sum(size * loss for size, loss in zip(STEPS, values, strict=True)) / NUM_IMAGES
        assert float(row["loss"]) == pytest.approx(weighted, rel=1e-6)
        assert abs(weighted - sum(values) / 3) > 1e-4  # an unweighted mean would fail


def test_every_second_view_uses_the_second_augmentation(record: Callable[..., Recording]) -> None:
    """The first policy changes nothing, and the second one inverts every value of at least one half."""
    (call, *_) = record(1, views=4, augmentation=Augmentation(), second_augmentation=Augmentation(solarize=1.0)).calls
    first, second, third, fourth = call.views.reshape(4, BATCH_SIZE, *call.views.shape[1:])
    inverted = torch.where(first > 0.499, 1 - first, first)
    assert (first > 0.5).any()
    assert torch.allclose(second, inverted, atol=1e-5)
    assert torch.allclose(third, first, atol=1e-5)
    assert torch.allclose(fourth, inverted, atol=1e-5)


def test_metrics_of_a_step_are_sums_without_gradients() -> None:
    """A metric may be a Python, numpy or torch number. The loss counts once per image, and nothing is averaged."""

    class Own(Method):
        def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
            loss = self.backbone(views).sum()
            assert random_inputs == self.sample_random_inputs(len(labels), torch.Generator()) == ()
            return loss, {"accuracy": (2, len(labels)), "slope": (loss, 1.5), "numpy": (np.float32(0.5), np.int64(7))}

    method, views = Own(backbones.build("conv4")), torch.ones(3, 3, 16, 16)
    loss, metrics = _forward("mine:Own", method, torch.add, "float32", (views, views), torch.zeros(3).long(), ())
    value = loss.item()
    assert {name: tuple(pair.tolist()) for name, pair in metrics.items()} == {
        "loss": (pytest.approx(3 * value), 3), "finite": (1, 1), "accuracy": (2, 3), "slope": (value, 1.5),
        "numpy": (0.5, 7),
    }  # fmt: skip
    assert {(pair.dtype, pair.requires_grad) for pair in metrics.values()} == {(torch.float64, False)}
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_the_activations(
    record: Callable[..., Recording], precision: str, dtype: torch.dtype
) -> None:
    assert {call.representation_dtype for call in record(1, precision).calls} == {dtype}
