"""The `evaluation` part: linear evaluation with cached features, and with features recomputed in every epoch."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np

from rr import backbones
from rr.bench import reference
from rr.bench.dataset import BenchData, prepare_data
from rr.bench.measure import Candidate, PartResult, Timing, summarize, time_interleaved
from rr.bench.settings import DATASET, MEAN, STD, Settings, num_loader_workers
from rr.compute.torch_threads import configure_torch
from rr.data.beton import Beton
from rr.evaluate import linear
from rr.evaluate.feature_extraction import extract_features
from rr.params import LinearConfig

_BATCH_SIZE = 128


def run(settings: Settings) -> PartResult:
    """Compare the time that rr needs for 100 epochs with 100 times the time that the reference needs for one epoch."""
    epochs = 2 if settings.smoke_test else 100
    result = PartResult()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_data(settings, 256 if settings.smoke_test else 5_000, Path(folder))
        for threads in settings.choose_thread_counts(2):
            configure_torch(threads)
            candidates = [
                Candidate("rr, features extracted once", _LinearEvaluation(data, epochs, threads), 1),
                Candidate(f"features in every epoch, one epoch × {epochs}", _ReferenceEpoch(data), 1),
            ]
            rr_timings, epoch_timings = time_interleaved(candidates, min(settings.steps, 5))
            reference_timings = [Timing(wall * epochs, cpu * epochs) for wall, cpu in epoch_timings]
            names = [(candidate.name, 1) for candidate in candidates]
            timings = [rr_timings, reference_timings]
            result.cases.append(summarize(f"{epochs} epochs, {data.name}", "evaluations", threads, names, timings))
    result.notes = [
        f"All epochs of the reference take the same time, so one epoch is timed and its time is multiplied by "
        f"{epochs}. The reference has one worker process per core ({num_loader_workers()}). These processes persist "
        "between epochs, and their startup is not timed.",
        "The time for rr includes reading the images, extracting the features, training for all epochs and computing "
        "the accuracy. The time for the reference does not include its pass over the test images.",
    ]
    return result


class _LinearEvaluation:
    """Feature extraction and the linear protocol in rr. The first training images also serve as test images."""

    def __init__(self, data: BenchData, epochs: int, threads: int) -> None:
        self.data, self.threads = data, threads
        self.backbone = backbones.build("conv4").requires_grad_(False).eval()
        self.config = LinearConfig(
            kind="linear", label_fraction=1.0, epochs=epochs, batch_size=_BATCH_SIZE, learning_rate=1e-3
        )

    def __call__(self) -> None:
        beton = Beton(self.data.beton, threads=self.threads)
        features, labels = extract_features(self.backbone, beton, DATASET, "cpu"), beton.labels
        with contextlib.redirect_stderr(io.StringIO()):  # hides the progress
            linear.train_and_predict(
                features, labels, features[:_BATCH_SIZE], labels[:_BATCH_SIZE], self.config,
                num_classes=self.data.num_classes, seed=0,
            )  # fmt: skip


class _ReferenceEpoch:
    """One epoch of linear evaluation with the reference."""

    def __init__(self, data: BenchData) -> None:
        images, labels = np.load(data.images), np.load(data.labels)
        dataset = reference.ImageDataset(images, labels, reference.plain_transform(MEAN, STD))
        self.batches = reference.make_loader(dataset, _BATCH_SIZE, num_loader_workers())
        self.evaluator = reference.LinearEvaluator(reference.Conv4(), data.num_classes)

    def __call__(self) -> None:
        self.evaluator.train_epoch(self.batches)
