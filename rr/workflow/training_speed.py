"""Run the training loop of `rr pretrain` to measure its speed."""

import contextlib
import itertools
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rr import paths
from rr.data.preprocessing import Preprocessing
from rr.params import DynamicsConfig, MethodConfig, Params
from rr.runtime.formatting import format_count
from rr.workflow.dataset_labels import find_dataset_labels

if TYPE_CHECKING:
    from rr.backbones.base import Backbone
    from rr.data.view_loader import Batch, ViewLoader
    from rr.pretrain import Job

_MIN_IMAGE_SIZE = 32  # pixels
_FIRST_WORK = 2**14  # total pixels of the first step's views: 16 views of 32 x 32 pixels
# Steps of networks with more parameters are not timed, because a small step would mostly consist of the weight update.
_MAX_TIMED_PARAMETERS = 5_000_000
# Duration of a training step, measured in forward passes of the backbone in eval mode. RotationNet trains on four
# rotations of each view, and BYOL has a second network without a backward pass.
_FORWARD_PASSES_PER_STEP = 3.5
_FORWARD_PASSES_OF_METHODS = {"rotation": 4 * 3.5, "byol": 3.5 + 1}
_REPEAT_BELOW_SECONDS = 0.1
_BASE_SECONDS = 2.5  # for the measurements of `rr plan`; each pair of backbone and image size adds one second
_KEYS_WITHOUT_EFFECT_ON_SPEED = {
    "alpha", "covariance_weight", "epochs", "gamma", "invariance_weight", "learning_rate", "max_iter", "momentum",
    "momentum_schedule", "n_init", "prior_weight", "redundancy_weight", "schedule", "temperature", "variance_weight",
}  # fmt: skip
_STEPS_PER_EPOCH = 50


def make_timing_job(
    config: MethodConfig, preprocessing: Preprocessing, backbone: str, num_classes: int, precision: str
) -> "Job":
    """Return the description of a run whose speed is measured. It has no measurements between epochs."""
    from rr.pretrain import Job

    return Job(
        preprocessing=preprocessing,
        backbone=backbone,
        method=config,
        num_classes=num_classes,
        seed=0,
        precision=precision,
        dynamics=DynamicsConfig(every_n_epochs=0, images=50),
        fingerprint="throughput",
    )


@dataclass(frozen=True)
class _StepShape:
    """The shape of a training step: the number of images, of views of each, and their height and width in pixels."""

    num_images: int
    num_views: int
    image_size: int

    @property
    def work(self) -> int:
        """The number of pixels in all views. Most of a step's duration is proportional to it."""
        return self.num_images * self.num_views * self.image_size**2

    def shrink(self, work: int, min_image_size: int) -> "_StepShape":
        """Return a step of about `work` pixels, with fewer images and, if that is not enough, fewer views or pixels.

        At least two images, two views and `min_image_size` x `min_image_size` pixels remain, unless the step has fewer.
        """
        num_images = min(self.num_images, max(2, work // (self.num_views * self.image_size**2)))
        num_views = min(self.num_views, max(2, work // (num_images * self.image_size**2)))
        image_size = min(self.image_size, max(min_image_size, math.isqrt(work // (num_images * num_views))))
        return _StepShape(num_images, num_views, image_size)


class StepTimer:
    """Measures the duration of training steps, with the training loop of `rr pretrain`, on images of random pixels.

    DeepCluster's clustering, measurements between epochs, checkpoints and reading images from a file are not included.
    The weights of the backbone change. torch uses the number of threads that
    `rr.compute.torch_threads.configure_torch` has set.
    """

    def __init__(
        self, backbone: "Backbone", preprocessing: Preprocessing, *, device: str, threads: int, precision: str
    ) -> None:
        self.backbone, self.preprocessing = backbone, preprocessing
        self.device, self.threads, self.precision = device, threads, precision
        self.min_image_size = backbone.image_size or _MIN_IMAGE_SIZE

    def views_per_second(self, config: Any, num_classes: int, seconds: float) -> float:
        """Return a method's training speed in views per second, measured for about `seconds`.

        On a CPU, a small step is timed first. Its duration determines how large a second step can be within `seconds`:
        the full training step if possible, and otherwise a step with fewer images, views or pixels. The duration of the
        full step is extrapolated from these two steps, in proportion to the additional pixels. For a network with many
        parameters, only forward passes are timed. On a GPU, only the full step is timed, because a step of any other
        size would also have to be compiled.
        """
        full = _StepShape(config.batch_size, config.views, self.preprocessing.image_size)
        small = full.shrink(_FIRST_WORK, self.min_image_size)
        if self.device != "cpu" or small == full:
            duration = self.measure_step_duration(config, num_classes, full, seconds / 2)
        elif sum(parameter.numel() for parameter in self.backbone.parameters()) > _MAX_TIMED_PARAMETERS:
            duration = full.work * _step_duration_in_forward_passes(config) / self.forward_pixels_per_second
        else:
            duration = self._extrapolate_step_duration(config, num_classes, small, full, seconds)
        return full.num_images * full.num_views / duration

    def _extrapolate_step_duration(
        self, config: Any, num_classes: int, small: _StepShape, full: _StepShape, seconds: float
    ) -> float:
        """Estimate the duration of the step `full` from the step `small` and the largest step that `seconds` allow."""
        start = time.perf_counter()
        small_time = self.measure_step_duration(config, num_classes, small, 0)
        seconds_left = start + seconds - time.perf_counter()
        if seconds_left < 2 * small_time:
            return small_time * full.work / small.work
        # A step should take about a third of the time left, because at least two steps run.
        large = full.shrink(int(small.work * max(seconds_left / 3 / small_time, 1)), self.min_image_size)
        large_time = self.measure_step_duration(config, num_classes, large, seconds_left / 2)
        time_per_pixel = large_time / large.work
        if large.work > small.work:  # the slope leaves out the constant part of a step's duration
            slope = (large_time - small_time) / (large.work - small.work)
            time_per_pixel = min(max(slope, 2 / 3 * time_per_pixel), time_per_pixel)
        return large_time + time_per_pixel * (full.work - large.work)

    @cached_property
    def forward_pixels_per_second(self) -> float:
        """The number of pixels that the backbone processes per second in forward passes with many views.

        First the image size and then the number of views is increased, until a pass takes noticeably longer. The speed
        is computed from the last two passes, because a small pass spends most of its time reading the weights. The
        measurement takes about a second.
        """
        num_views, image_size = 1, min(self.min_image_size, self.preprocessing.image_size)
        last_work, last_duration = 0, 0.0
        while True:
            work, duration = num_views * image_size**2, self.measure_forward_duration(num_views, image_size)
            is_noticeably_longer = last_work > 0 and duration > max(0.125, 2 * last_duration)
            if is_noticeably_longer or duration > 0.2:
                # The difference excludes the time for reading the weights. If it is implausibly small, use a quarter of
                # the last pass's duration.
                return (work - last_work) / max(duration - last_duration, duration / 4)
            last_work, last_duration = work, duration
            if image_size < self.preprocessing.image_size:
                image_size = min(2 * image_size, self.preprocessing.image_size)
            else:
                num_views *= 4

    def measure_forward_duration(self, num_views: int, image_size: int) -> float:
        """Return the duration of a forward pass of the backbone in eval mode: the minimum of two if they are short."""
        import torch

        images = torch.rand(num_views, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        duration = math.inf
        with torch.inference_mode():
            for _ in range(2):
                start = time.perf_counter()
                self.backbone.eval()(images)
                duration = min(duration, time.perf_counter() - start)
                if duration > _REPEAT_BELOW_SECONDS:
                    break
        return duration

    def measure_step_duration(self, config: Any, num_classes: int, shape: _StepShape, seconds: float) -> float:
        """Return the mean duration of steps of the given shape, timed for about `seconds` after the first step."""
        import torch

        from rr import methods
        from rr.compute.process_group import ProcessGroup
        from rr.data import beton
        from rr.pretrain.loop import Trainer

        if self.device != "cpu":
            torch.compiler.reset()  # otherwise, all steps would count toward the limit of compilations per function
        # With a tiny learning rate, the loss on random pixels stays finite.
        changes = {"batch_size": shape.num_images, "views": shape.num_views, "learning_rate": 1e-9}
        config, size = config.model_copy(update=changes), shape.image_size
        job = make_timing_job(config, self.preprocessing, self.backbone.name, num_classes, self.precision)
        with tempfile.TemporaryDirectory() as folder:
            path, rows = Path(folder, "train.beton"), np.arange(shape.num_images)
            noise = np.random.default_rng(0).integers(0, 256, (shape.num_images, size, size, 3), np.uint8)
            beton.write(path, noise, rows % max(num_classes, 1), rows)
            data = beton.Beton(path, threads=self.threads)
            method = methods.build(config, self.backbone, num_classes, len(data)).to(self.device)
            trainer = Trainer(job, method, data, Path(folder, "resume.pt"), self.device, ProcessGroup())
            trainer.loader.set_labels(data.labels)  # as if DeepCluster had computed them
            times: list[float] = []
            with contextlib.closing(_repeat_images(trainer.loader)) as batches:
                for batch in batches:
                    trainer.run_step(batch)
                    if self.device != "cpu":
                        torch.cuda.synchronize(self.device)
                    times.append(time.perf_counter())
                    if len(times) > 1 and times[-1] - times[0] >= seconds:
                        break
        return (times[-1] - times[0]) / (len(times) - 1)


def _views_per_image_in_all_epochs(config: Any) -> int:
    """Return how many views of each image a run uses over all its epochs."""
    views: int = config.views * config.epochs
    return views


def _step_duration_in_forward_passes(config: Any) -> float:
    """Return the approximate duration of a training step, measured in eval-mode forward passes of the backbone."""
    return _FORWARD_PASSES_OF_METHODS.get(config.kind, _FORWARD_PASSES_PER_STEP)


def _repeat_images(loader: "ViewLoader") -> "Generator[Batch, None, None]":
    """Yield mini-batches of the same images indefinitely."""
    loader.positions = np.tile(loader.positions, _STEPS_PER_EPOCH)
    for epoch in itertools.count():
        with contextlib.closing(loader.iter_epoch(epoch)) as batches:  # type: ignore[type-var]
            yield from batches


def _group_by_step(
    params: Params, runs: Sequence[paths.PretrainPaths]
) -> dict[tuple[str, int], dict[str, list[paths.PretrainPaths]]]:
    """Return the runs by backbone and image size, and within each pair by training step, those with most views first.

    The learning rate, for example, does not distinguish training steps.
    """
    groups: dict[tuple[str, int], dict[str, list[paths.PretrainPaths]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(
        runs, key=lambda run: (run.backbone, -_views_per_image_in_all_epochs(params.methods[run.method]))
    ):
        step = params.methods[run.method].model_dump_json(exclude=_KEYS_WITHOUT_EFFECT_ON_SPEED)
        groups[run.backbone, params.datasets[run.dataset].image_size][step].append(run)
    return groups


def _count_classes(params: Params, dataset: str) -> int:
    labels = find_dataset_labels(params, dataset)
    return len(labels.class_names) if labels else 0


@dataclass
class _TimeBudget:
    """The time for the measurements of all training steps.

    Attributes:
        deadline: the value of `time.perf_counter` at which the measurements should be finished.
        pairs_left: number of pairs of a backbone and an image size after the current one.
        steps_left: number of training steps that have been neither measured nor skipped.
        steps_skipped: number of training steps that were skipped because the time had run out.
    """

    deadline: float
    pairs_left: int
    steps_left: int
    steps_skipped: int = 0

    def allot_seconds(self, *, is_required: bool) -> float | None:
        """Return the time for measuring the next step, or None if the step is skipped."""
        # One second is reserved for the first step of each later pair.
        seconds_left = self.deadline - time.perf_counter() - self.pairs_left
        seconds = min(max(seconds_left / self.steps_left, 0.2), 1.0)
        self.steps_left -= 1
        if is_required or seconds_left > 0:
            return seconds
        self.steps_skipped += 1
        return None


def measure_views_per_second(
    params: Params, runs: Sequence[paths.PretrainPaths], device: str
) -> dict[paths.PretrainPaths, float]:
    """Return the views per second of each pretraining run. Runs with identical training steps share a measurement.

    On a CPU, all measurements together take about 2.5 seconds plus one second for each pair of a backbone and an image
    size, unless the machine is busy. The methods with the most views are measured first. If time runs out, the others
    are assumed to be as fast as the fastest method for the same pair. A message on stderr announces the measurements.
    """
    from rr import backbones
    from rr.compute.torch_threads import configure_torch

    groups = _group_by_step(params, runs)
    if not groups:
        return {}
    num_steps, limit = sum(map(len, groups.values())), _BASE_SECONDS + len(groups)
    _announce_measurements(num_steps, limit, device)
    configure_torch(params.threads)
    budget = _TimeBudget(time.perf_counter() + limit, len(groups), num_steps)
    rates: dict[paths.PretrainPaths, float] = {}
    backbone: Backbone | None = None
    timer: StepTimer | None = None
    for pair, ((name, image_size), runs_by_step) in enumerate(groups.items()):
        if backbone is None or backbone.name != name or backbone.image_size not in (None, image_size):
            timer = backbone = None  # free the memory of the previous one first
            backbone = backbones.build(name, image_size, params.backbones.get(name)).to(device)
        preprocessing = Preprocessing(image_size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        timer = StepTimer(backbone, preprocessing, device=device, threads=params.threads, precision=params.precision)
        if pair == 0 and device == "cpu":  # compile kernels, which happens only once and does not count
            start, first = time.perf_counter(), next(iter(runs_by_step.values()))[0]
            timer.views_per_second(params.methods[first.method], _count_classes(params, first.dataset), 0.0)
            budget.deadline += time.perf_counter() - start
        budget.pairs_left -= 1
        rates |= _measure_pair(timer, params, runs_by_step.values(), budget)
    if budget.steps_skipped:
        print(
            f"plan: {budget.steps_skipped:,} of the {num_steps:,} steps could not be measured in the time available; "
            "they are assumed to be as fast as the fastest one with the same backbone and image size",
            file=sys.stderr,
        )
    return rates


def _announce_measurements(num_steps: int, limit: float, device: str) -> None:
    """Print how many kinds of steps are measured and how long that may take; `limit` is in seconds."""
    expected = f"up to {limit:.0f} s" if device == "cpu" else "up to a minute each, because each is compiled first"
    kinds = format_count(num_steps, "kinds of training steps", "kind of training step")
    message = f"plan: measuring the speed of {kinds} on this machine ({expected})"
    print(message, file=sys.stderr, flush=True)


def _measure_pair(
    timer: StepTimer, params: Params, runs_by_step: Iterable[list[paths.PretrainPaths]], budget: _TimeBudget
) -> dict[paths.PretrainPaths, float]:
    """Return the views per second of all runs with one backbone and image size, grouped by training step.

    Only on a CPU, a step other than the first may be skipped. It is assumed to be as fast as the fastest one.
    """
    rates: dict[paths.PretrainPaths, float] = {}
    fastest = 0.0  # in forward passes per second, because their number per step differs between methods
    for position, same_step in enumerate(runs_by_step):
        run, config = same_step[0], params.methods[same_step[0].method]
        seconds = budget.allot_seconds(is_required=timer.device != "cpu" or position == 0)
        if seconds is None:
            rate = fastest / _step_duration_in_forward_passes(config)
        else:
            rate = timer.views_per_second(config, _count_classes(params, run.dataset), seconds)
            fastest = max(fastest, rate * _step_duration_in_forward_passes(config))
        rates |= dict.fromkeys(same_step, rate)
    return rates
