"""Compute the losses of every method over twenty steps. They must not change when code is refactored.

    python tests/golden.py          updates tests/golden.json, after a change that is supposed to change the losses

Each entry lists the mean losses of five epochs of four steps each, with Conv-4 and one thread.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from rr.compute.torch_threads import configure_torch
from rr.data import beton
from rr.data.shapes import generate_shapes
from rr.params import DynamicsConfig, MethodConfig, Params, load_params
from rr.params.methods import TrainableConfig
from rr.paths import PretrainFolder
from rr.pretrain import Job, pretrain

GOLDEN_FILE = Path(__file__).with_name("golden.json")
PARAMS: Params = load_params(Path(__file__).parent.parent / "params.yaml")
TRAINABLE = [name for name, config in PARAMS.methods.items() if isinstance(config, TrainableConfig)]
NO_DYNAMICS = DynamicsConfig(every_n_epochs=0, images=60)
NUM_IMAGES, NUM_EPOCHS, BATCH_SIZE = 128, 5, 32


def small_config(name: str, **changes: object) -> MethodConfig:
    """Return a method's config from params.yaml with few epochs, views and clusters, small batches and `changes`."""
    config = PARAMS.methods[name]
    defaults: dict[str, object] = {"epochs": NUM_EPOCHS, "batch_size": BATCH_SIZE}
    if config.kind == "relational":
        defaults["views"] = 4
        if config.label_fraction:
            defaults["label_fraction"] = 0.5  # so that a mini-batch contains several labeled images of the same class
    if config.kind == "deepcluster":
        defaults |= {"clusters": 12, "clusters_per": "dataset", "n_init": 2}
    return config.model_copy(update=defaults | changes)


def write_images(target: Path, count: int = NUM_IMAGES) -> Path:
    """Write a beton with images from the built-in dataset, and return its path."""
    images, labels = generate_shapes(count, 0, "train")
    beton.write(target, images, labels, np.arange(count))
    return target


def train(
    data: Path,
    directory: Path,
    config: MethodConfig,
    *,
    seed: int = 1,
    threads: int = 1,
    workers: int = 1,
    dynamics: DynamicsConfig = NO_DYNAMICS,
    backbone: str = "conv4",
    fingerprints: tuple[str, str] = ("test", ""),
) -> PretrainFolder:
    """Pretrain with `threads` torch threads and `workers` loader threads, and return the paths of the outputs."""
    configure_torch(threads)
    job = Job(
        PARAMS.datasets["shapes"],
        backbone,
        config,
        10,
        seed,
        "float32",
        dynamics,
        fingerprints[0],
        None,
        fingerprints[1],
    )
    directory.mkdir(exist_ok=True)
    outputs = PretrainFolder("shapes", backbone, "method", seed, directory)
    pretrain(job, data, outputs, device="cpu", threads=workers)
    return outputs


def epoch_losses(name: str, data: Path, directory: Path, threads: int = 1) -> list[float]:
    """Train a method and return the mean loss of each epoch."""
    rows = train(data, directory, small_config(name), threads=threads).history.read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def main() -> None:
    """Write the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_images(Path(folder, "train.beton"))
        losses = {name: epoch_losses(name, data, Path(folder, name)) for name in TRAINABLE}
    GOLDEN_FILE.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
