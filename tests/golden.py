"""Losses of twenty steps of every method, for a refactoring to be compared with.

    python tests/golden.py          writes tests/golden.json anew, after a change that is meant to change them

Each entry is the mean loss of each of five epochs of four steps, on Conv-4 with one thread.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rr import paths
from rr.compute.device import configure_backends
from rr.data import beton
from rr.data.shapes import generate
from rr.params import DynamicsConfig, MethodConfig, Params, load_params
from rr.pretrain import loop

GOLDEN_FILE = Path(__file__).with_name("golden.json")
PARAMS: Params = load_params(Path(__file__).parent.parent / "params.yaml")
TRAINABLE = [name for name, settings in PARAMS.methods.items() if hasattr(settings, "epochs")]
NUM_IMAGES, NUM_EPOCHS, BATCH_SIZE = 128, 5, 32


@dataclass(frozen=True)
class OutputPaths(paths.PretrainPaths):
    """A pretraining's files, all in one folder."""

    directory: Path

    @property
    def folder(self) -> Path:
        return self.directory

    @property
    def history(self) -> Path:
        return self.directory / "history.csv"

    @property
    def checkpoint(self) -> Path:
        return self.directory / "resume.pt"


def small_config(name: str, **changes: object) -> MethodConfig:
    """A method of params.yaml, its numbers that cost time in small."""
    settings = PARAMS.methods[name]
    less: dict[str, object] = {"epochs": NUM_EPOCHS, "batch_size": BATCH_SIZE}
    if settings.kind == "relational":
        less["views"] = 4
        if settings.label_fraction:
            less["label_fraction"] = 0.5  # enough for two of a class to meet in a mini-batch
    if settings.kind == "deepcluster":
        less |= {"clusters": 12, "clusters_per": "dataset", "n_init": 2}
    return settings.model_copy(update=less | changes)


def write_images(target: Path, count: int = NUM_IMAGES) -> Path:
    """A beton of the embedded data set."""
    images, labels = generate(count, 0, "train")
    beton.write(target, images, labels, np.arange(count))
    return target


def train(data: Path, directory: Path, config: MethodConfig, *, seed: int = 1, threads: int = 1, workers: int = 1) -> OutputPaths:
    """Run the loop in `place`, with so many threads of torch and workers of the loader; return where its files are."""
    configure_backends(threads)
    dynamics = DynamicsConfig(every_n_epochs=0, images=60)
    job = loop.Job(PARAMS.datasets["shapes"], "conv4", config, 10, seed, "float32", dynamics, "test")
    directory.mkdir(exist_ok=True)
    outputs = OutputPaths("shapes", "conv4", "method", seed, directory)
    loop.pretrain(job, data, outputs, device="cpu", threads=workers)
    return outputs


def epoch_losses(name: str, data: Path, place: Path, threads: int = 1) -> list[float]:
    """The mean loss of each epoch."""
    rows = train(data, place, small_config(name), threads=threads).history.read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = write_images(Path(folder, "train.beton"))
        found = {name: epoch_losses(name, data, Path(folder, name)) for name in TRAINABLE}
    GOLDEN_FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
