"""Part `evaluation`: linear evaluation, features encoded once against pictures read and encoded in every epoch."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np

from rr import backbones
from rr.bench import reference
from rr.bench.dataset import Sample, prepare
from rr.bench.measure import Contestant, Part, Seconds, alternate, row
from rr.bench.settings import MEAN, STD, Settings, workers
from rr.compute.device import settle
from rr.data.beton import Beton
from rr.evaluate import linear
from rr.evaluate.features import extract
from rr.params import Dataset, Linear, ShapesSource

_BATCH = 128


def run(settings: Settings) -> Part:
    """100 epochs of ours, whole; of the reference, one epoch at a time, its times multiplied."""
    epochs = 2 if settings.small else 100
    part = Part()
    with tempfile.TemporaryDirectory() as folder:
        sample = prepare(settings, 256 if settings.small else 5_000, Path(folder))
        for threads in settings.threads_or(2):
            settle(threads)
            contestants = [
                Contestant("rr, features once", _Ours(sample, epochs, threads), 1),
                Contestant(f"every epoch anew, one epoch × {epochs}", _Theirs(sample), 1),
            ]
            settle(threads)  # opening a beton with FFCV is known to change torch's
            ours, one_epoch = alternate(contestants, settings.few(5))
            whole = [Seconds(wall * epochs, cpu * epochs) for wall, cpu in one_epoch]
            names = [(contestant.name, 1) for contestant in contestants]
            part.rows.append(row(f"{epochs} epochs, {sample.name}", "evaluations", threads, names, [ours, whole]))
    part.notes = [
        f"the reference was run for single epochs, and their times are multiplied by {epochs}: its epochs are alike; "
        f"its {workers()} worker processes are kept between epochs, and their start is not counted",
        "rr: decoding, features, all epochs and the accuracy; the reference: without its pass over the test pictures",
    ]
    return part


class _Ours:
    """The product's extraction and protocol; training pictures double as the few test pictures."""

    def __init__(self, sample: Sample, epochs: int, threads: int) -> None:
        self.sample, self.threads = sample, threads
        self.backbone = backbones.build("conv4").requires_grad_(False).eval()
        self.protocol = Linear(kind="linear", labelled=1.0, epochs=epochs, batch_size=_BATCH, learning_rate=1e-3)
        source = ShapesSource(kind="shapes", train=10, test=10, seed=0)
        self.dataset = Dataset(source=source, side=32, mean=MEAN, std=STD)

    def __call__(self) -> None:
        data = Beton(self.sample.beton, threads=self.threads)
        features = extract(self.backbone, data, self.dataset, "cpu")
        test = features[:_BATCH], data.labels[:_BATCH]
        with contextlib.redirect_stderr(io.StringIO()):  # its progress
            linear.run(self.protocol, (features, data.labels), test, self.sample.classes, 0)


class _Theirs:
    """One epoch of the reference."""

    def __init__(self, sample: Sample) -> None:
        images, labels = np.load(sample.images), np.load(sample.labels)
        data = reference.Pictures(images, labels, reference.plain_transform(MEAN, STD))
        self.batches = reference.loader(data, _BATCH, workers())
        self.evaluation = reference.LinearEvaluation(reference.Conv4(), sample.classes)

    def __call__(self) -> None:
        self.evaluation.epoch(self.batches)
