"""Check a user's own pretraining method: gradients, reproducibility and continuation after an interruption."""

import signal
import tempfile
from pathlib import Path

import numpy as np
import torch

from rr import backbones, methods, paths
from rr.compute.device import configure_backends
from rr.data import beton
from rr.data.index import Preprocessing
from rr.errors import UserError
from rr.methods.base import Method
from rr.methods.requirements import data_requirements
from rr.params import DynamicsConfig, load_params, lookup
from rr.params.methods import TrainableConfig
from rr.params.optimizers import CONSTANT
from rr.pretrain import Job, pretrain
from rr.runtime.signals import EXIT_MESSAGES
from rr.views import make_views

_DATASET = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
_NUM_CLASSES, _BATCH_SIZE, _NUM_BATCHES = 4, 16, 3
_NO_DYNAMICS = DynamicsConfig(every_n_epochs=0, images=50)


def check_method(name: str, *, params_file: Path = paths.PARAMS_FILE, backbone: str = "conv4") -> None:
    """Check that a method does what the training loop requires.

    The method is trained on the CPU for two epochs of three mini-batches of random images with random labels. The
    checks are:

    - The loss is a finite number, and the metrics contain `accuracy`.
    - All parameters of the backbone receive gradients, which are finite and not all zero.
    - Two trainings with the same seed give the same bits, and another seed gives other weights.
    - A training that is interrupted within an epoch continues to the same bits.

    Args:
        name: name of the method in the parameter file.
        params_file: the parameter file. The current folder must be the project.
        backbone: name of the backbone to train.

    Raises:
        AssertionError: if a check fails.
        UserError: if the parameter file has mistakes, or if it has no method of that name that trains.
    """
    config = lookup(load_params(params_file).methods, name, f"{params_file}: methods")
    if not isinstance(config, TrainableConfig):
        raise UserError(f"{params_file}: methods.{name} is not trained, so there is nothing to check")
    config = config.model_copy(update={"epochs": 2, "batch_size": _BATCH_SIZE, "schedule": CONSTANT})
    configure_backends(1)
    rng = np.random.default_rng(0)
    num_images = _NUM_BATCHES * _BATCH_SIZE
    images = rng.integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    labels = np.arange(num_images) % _NUM_CLASSES
    _check_loss(config, backbone, images, labels)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "train.beton")
        beton.write(data, images, labels, np.arange(num_images))

        def train(run: str, seed: int = 0, interrupt: bool = False) -> tuple[bytes, bytes]:
            return _train(config, backbone, data, Path(folder, run), seed, interrupt)

        expected = train("first")
        assert train("second") == expected, (
            "two trainings with the same seed differ: take all random numbers from sample_random_inputs"
        )
        assert train("other", seed=1)[0] != expected[0], "trainings with different seeds give the same weights"
        assert train("interrupted", interrupt=True) == expected, (
            "a training that was interrupted within an epoch gives another result: the method has a state that is not "
            "in its state_dict; register it as a buffer"
        )


def _check_loss(config: TrainableConfig, backbone_name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Check the loss of one mini-batch, and its gradients."""
    torch.manual_seed(0)
    backbone = backbones.build(backbone_name, _DATASET.image_size)
    method = methods.build(config, backbone, _NUM_CLASSES).train()  # type: ignore[arg-type]
    label_fraction = data_requirements(config).label_fraction  # type: ignore[arg-type]
    M = _BATCH_SIZE
    views = make_views(
        images[:M], np.arange(M), augmentation=config.augmentations, seed=0, epoch=0, num_views=config.views,
        mean=_DATASET.mean, std=_DATASET.std, device="cpu",
    )  # fmt: skip
    if type(method).update_pseudo_labels is not Method.update_pseudo_labels:
        new_labels = method.update_pseudo_labels(lambda: torch.randn(len(images), method.features), 0)
        batch_labels = torch.from_numpy(labels[:M]) if new_labels is None else new_labels[:M]
    else:
        batch_labels = torch.from_numpy(labels[:M] if label_fraction else np.full(M, -1))
    random_inputs = method.sample_random_inputs(M, torch.Generator().manual_seed(0))
    loss, metrics = method.loss(views, batch_labels, random_inputs)
    assert loss.ndim == 0, f"the loss must be a single number, got shape {tuple(loss.shape)}"
    assert loss.isfinite(), f"the loss is {loss.item()}"
    assert "accuracy" in metrics, f"the metrics have no entry accuracy, only {', '.join(metrics) or 'none at all'}"
    loss.backward()
    for name, parameter in backbone.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, f"the parameter {name} of the backbone receives no gradient"
        assert gradient.isfinite().all(), f"the gradient of the parameter {name} of the backbone is NaN or infinite"
        assert gradient.any(), f"the gradient of the parameter {name} of the backbone is zero"


def _train(
    config: TrainableConfig, backbone: str, data: Path, folder: Path, seed: int, interrupt: bool
) -> tuple[bytes, bytes]:
    """Train, and return the weights and the history. If `interrupt` is true, stop in the second epoch and continue."""
    outputs = paths.PretrainFolder("random", backbone, "method", seed, folder)
    job = Job(_DATASET, backbone, config, _NUM_CLASSES, seed, "float32", _NO_DYNAMICS, "check")  # type: ignore[arg-type]
    num_steps = 0

    def stop_in_second_epoch(num_views: int) -> None:
        nonlocal num_steps
        num_steps += 1
        if interrupt and num_steps == _NUM_BATCHES + 1:
            signal.raise_signal(signal.SIGTERM)

    try:
        pretrain(job, data, outputs, device="cpu", threads=1, on_step=stop_in_second_epoch)
    except SystemExit as error:
        if error.code not in EXIT_MESSAGES:
            raise
        pretrain(job, data, outputs, device="cpu", threads=1, on_step=stop_in_second_epoch)
    return outputs.weights.read_bytes(), outputs.history.read_bytes()
