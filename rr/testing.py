"""Check a user-defined pretraining method, backbone, image source or protocol.

Each function takes the name of an entry in the parameter file. The current folder must be the project folder.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import torch

from rr import backbones, methods, paths
from rr.backbones.weights import load_backbone, save_backbone
from rr.compute.optimizers import DETACHED_METHODS
from rr.compute.torch_threads import configure_torch
from rr.data import beton, raw
from rr.data.feature_file import read_features
from rr.data.preprocessing import Preprocessing
from rr.data.shapes import CLASS_NAMES, generate_shapes
from rr.errors import UserError
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.protocol_checks import needs_labels
from rr.evaluate.stage import find_evaluator
from rr.evaluate.target_dataset import TargetDataset
from rr.extract import extract
from rr.fetch import fetch
from rr.methods.base import Method, check_loss_result, check_pseudo_labels
from rr.methods.requirements import data_requirements
from rr.params import DynamicsConfig, load_params, lookup
from rr.params.methods import TrainableConfig
from rr.params.optimizers import CONSTANT
from rr.pretrain import Job, pretrain
from rr.pretrain.loop import RESERVED_METRICS
from rr.runtime.signals import EXIT_MESSAGES
from rr.views import make_views

_DATASET = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
_NUM_CLASSES, _MIN_BATCH_SIZE, _NUM_BATCHES = 4, 16, 3
_NO_DYNAMICS = DynamicsConfig(every_n_epochs=0, images=50)


@contextlib.contextmanager
def _configured_torch() -> Iterator[None]:
    """Configure torch as the stages do, with one thread; at the end, restore all settings and the random state.

    Raises:
        RuntimeError: if Python ignores the assert statements of the checks.
    """
    if not __debug__:
        raise RuntimeError("the checks are assert statements, which python -O ignores: run Python without this option")
    methods = [(kind, name, getattr(kind, name)) for kind, name in DETACHED_METHODS]
    threads = torch.get_num_threads(), numba.get_num_threads()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[]):
        configure_torch(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads[0])
            numba.set_num_threads(threads[1])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
            for kind, name, method in methods:
                setattr(kind, name, method)


@_configured_torch()
def check_method(
    name: str, *, params_file: str | os.PathLike[str] = paths.PARAMS_FILE, backbone: str = "conv4"
) -> None:
    """Check that a method does what the training loop requires.

    The method is trained on the CPU for two epochs, each with three mini-batches of random images. Their labels cycle
    through four classes. The checks are:

    - The loss is a finite number, and the metrics contain `accuracy`. Unless the method sets
      `supports_data_parallel` to False, the loss depends only on its arguments and on the state of the method.
    - Each backbone parameter that requires a gradient receives one that is finite and contains nonzero values.
    - Two training runs with the same seed produce bit-identical results, and a different seed produces different
      weights.
    - A training run that is interrupted within an epoch and then continued produces the same result, bit for bit.

    Args:
        name: name of the method in the parameter file.
        params_file: the parameter file.
        backbone: name of the backbone to train.

    Raises:
        AssertionError: if a result is not reproducible or does not depend on the seed, or if the loss or a gradient is
            invalid.
        UserError: if the parameter file contains mistakes or lacks a trainable method with that name, or if `loss` or
            `update_pseudo_labels` returns an invalid result.
    """
    params_file = paths.expand_user(params_file)
    params = load_params(params_file)
    config = lookup(params.methods, name, f"{params_file}: methods")
    if not isinstance(config, TrainableConfig):
        raise UserError(f"{params_file}: methods.{name} is not a trainable method, so there is nothing to check")
    batch_size = max(_MIN_BATCH_SIZE, data_requirements(config).min_batch_size)  # type: ignore[arg-type]
    config = config.model_copy(update={"epochs": 2, "batch_size": batch_size, "schedule": CONSTANT})
    rng = np.random.default_rng(0)
    num_images = _NUM_BATCHES * batch_size
    images = rng.integers(0, 256, (num_images, 32, 32, 3), np.uint8)
    labels = np.arange(num_images) % _NUM_CLASSES
    backbone_config = params.backbones.get(backbone)
    _check_loss(config, lambda: backbones.build(backbone, _DATASET.image_size, backbone_config), images, labels)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "train.beton")
        beton.write(data, images, labels, np.arange(num_images))

        def train(run: str, seed: int = 0, interrupt: bool = False) -> tuple[bytes, bytes]:
            job = Job(
                _DATASET, backbone, config, _NUM_CLASSES, seed, "float32", _NO_DYNAMICS, "check",  # type: ignore[arg-type]
                backbone_config=backbone_config,
            )  # fmt: skip
            outputs = paths.PretrainFolder("random", backbone, "method", seed, Path(folder, run))
            return _train(job, data, outputs, interrupt)

        expected = train("first")
        assert train("second") == expected, (
            "two training runs with the same seed differ: take all random numbers from sample_random_inputs"
        )
        assert train("other", seed=1)[0] != expected[0], "training runs with different seeds produce the same weights"
        assert train("interrupted", interrupt=True) == expected, (
            "a training run that was interrupted within an epoch produces a different result: the method has "
            "state that is missing from its state_dict; register it as a buffer"
        )


@_configured_torch()
def check_backbone(name: str, *, image_size: int = 32, params_file: str | os.PathLike[str] = paths.PARAMS_FILE) -> None:
    """Check that a backbone does what the stages require.

    - It is a subclass of `rr.backbones.base.Backbone`.
    - It maps images (B, 3, S, S) to finite float32 representations (B, num_features), in both train and eval mode.
    - Each parameter that requires a gradient receives one that is finite and contains nonzero values.
    - The weights depend only on torch's random state.
    - A saved and reloaded backbone produces the same representations, bit for bit.

    Args:
        name: name of the backbone in the parameter file.
        image_size: side S of the images in pixels.
        params_file: the parameter file.

    Raises:
        AssertionError: if a check fails.
        UserError: if the parameter file contains mistakes or lacks a backbone with that name, or if the backbone does
            not define `num_features` or has tensors with reserved names.
    """
    params_file = paths.expand_user(params_file)
    config = lookup(load_params(params_file).backbones, name, f"{params_file}: backbones")
    images = torch.randn(8, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))

    def build() -> backbones.Backbone:
        torch.manual_seed(0)
        return backbones.build(name, image_size, config)

    backbone, other = build().train(), build()
    assert isinstance(backbone, backbones.Backbone), f"{config.kind} is not a subclass of rr.backbones.base.Backbone"
    for key, value in backbone.state_dict().items():
        assert value.equal(other.state_dict()[key]), (
            f"{key} differs between two networks with the same seed: draw all random numbers from torch's global "
            "generator"
        )
    features = backbone(images)
    _check_features(features, (len(images), backbone.num_features), "train")
    # After a normalization layer, the gradient of a plain sum would be zero, so weight the features.
    (features * torch.linspace(-1, 1, features.numel()).view(features.shape)).sum().backward()
    _check_gradients(backbone)
    with torch.inference_mode():
        _check_features(backbone.eval()(images), (len(images), backbone.num_features), "eval")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder, "backbone.safetensors")
        save_backbone(backbone, path)
        assert load_backbone(path)(images).equal(backbone.eval()(images)), (
            "a saved and reloaded backbone produces different representations: it has state that is missing from its "
            "state_dict; register it as a buffer"
        )


@_configured_torch()
def check_source(name: str, *, params_file: str | os.PathLike[str] = paths.PARAMS_FILE) -> None:
    """Check that a dataset's source does what the `fetch` stage requires, by reading it twice.

    - Both splits have images, the training split comes first, and all images can be decoded.
    - Both reads yield the same images.

    Args:
        name: name of the dataset in the parameter file. Downloads are kept in the dataset's download folder, as with
            `rr fetch`.
        params_file: the parameter file.

    Raises:
        AssertionError: if the two reads differ.
        UserError: if the parameter file contains mistakes or lacks a dataset with that name, or if the images or class
            names are invalid.
    """
    params_file = paths.expand_user(params_file)
    config = lookup(load_params(params_file).datasets, name, f"{params_file}: datasets")
    download_dir = paths.DatasetPaths(name).download_dir
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.parquet") for number in (1, 2)]
        for file in files:
            fetch(config.source, file, download_dir)
        assert files[0].read_bytes() == files[1].read_bytes(), "the images or their order differ between two reads"


@_configured_torch()
def check_protocol(name: str, *, params_file: str | os.PathLike[str] = paths.PARAMS_FILE) -> None:
    """Check that a protocol does what the `evaluate` stage requires, using an untrained Conv-4 and generated images.

    A fifth of the images are unlabeled.

    - The metrics are finite numbers.
    - Each table column has one value per row, and so do the predictions, if there are any. The rows are rows of
      `inputs.test`, and the predictions are classes.
    - `examples` is an image, uint8 (H, W, 3).
    - A second evaluation gives the same result.

    Args:
        name: name of the protocol in the parameter file.
        params_file: the parameter file.

    Raises:
        AssertionError: if two evaluations differ.
        UserError: if the parameter file contains mistakes or lacks a protocol with that name, or if the result is
            invalid.
    """
    params_file = paths.expand_user(params_file)
    config = lookup(load_params(params_file).protocols, name, f"{params_file}: protocols")
    with tempfile.TemporaryDirectory() as folder:
        betons = {split: Path(folder, f"{split}.beton") for split in raw.SPLITS}
        for split, num_images in (("train", 100), ("test", 50)):
            images, labels = generate_shapes(num_images, 0, split, _DATASET.image_size)
            labels[::5] = raw.UNLABELED  # the protocol must not assume that it receives all images
            beton.write(betons[split], images, labels, np.arange(num_images))
        run = paths.PretrainFolder("shapes", "conv4", "random", 0, Path(folder))
        torch.manual_seed(0)
        save_backbone(backbones.build("conv4"), run.weights, _DATASET)
        target = TargetDataset("shapes", _DATASET, betons, list(CLASS_NAMES))
        extract(run.weights, target, Path(folder, "features"), device="cpu", threads=1)
        train, test = (read_features(Path(folder, "features"), split) for split in raw.SPLITS)
        inputs = EvaluationInputs(train, test, target, run, seed=0, device="cpu", threads=1)
        if needs_labels(config):
            inputs = inputs.without_unlabeled()
        first, second = (find_evaluator(config.kind)(inputs, config) for _ in range(2))
    hint = "differ between two evaluations with the same seed: take all random numbers from inputs.seed"
    assert first.metrics == second.metrics, f"the metrics {hint}"
    for field in ("rows", "predictions", "examples"):
        assert np.array_equal(getattr(first, field), getattr(second, field)), f"the {field} {hint}"
    assert first.columns.keys() == second.columns.keys(), f"the names of the columns {hint}"
    for column, values in first.columns.items():
        is_float = np.issubdtype(np.asarray(values).dtype, np.floating)  # only floats may be NaN
        assert np.array_equal(values, second.columns[column], equal_nan=is_float), f"the values of {column} {hint}"


def _check_loss(
    config: TrainableConfig, build_backbone: Callable[[], backbones.Backbone], images: np.ndarray, labels: np.ndarray
) -> None:
    """Check the loss of one mini-batch and the gradients of that loss."""
    label_fraction = data_requirements(config).label_fraction  # type: ignore[arg-type]
    kind: str = config.kind  # type: ignore[attr-defined]
    M = config.batch_size
    views = make_views(
        images[:M], np.arange(M), augmentation=config.augmentations, seed=0, epoch=0, num_views=config.views,
        mean=_DATASET.mean, std=_DATASET.std, device="cpu",
    )  # fmt: skip
    kept_labels = torch.from_numpy(labels[:M] if label_fraction else np.full(M, -1))

    def compute_loss(seed: int, *, is_training: bool) -> tuple[torch.Tensor, Method]:
        torch.manual_seed(0)
        method = methods.build(config, build_backbone(), _NUM_CLASSES, len(images)).train(is_training)  # type: ignore[arg-type]
        pseudo_labels = method.update_pseudo_labels(lambda: torch.randn(len(images), method.num_features), 0)
        pseudo_labels = check_pseudo_labels(kind, pseudo_labels, len(images))
        batch_labels = kept_labels if pseudo_labels is None else pseudo_labels[:M]
        random_inputs = method.sample_random_inputs(M, torch.Generator().manual_seed(0))
        torch.manual_seed(seed)
        try:
            result = method.loss(views, batch_labels, random_inputs)
        except Exception as error:
            if not label_fraction and pseudo_labels is None:
                error.add_note("All labels are -1, because the method's Config does not set label_fraction.")
            raise
        return check_loss_result(kind, result, RESERVED_METRICS)[0], method

    loss, method = compute_loss(0, is_training=True)
    assert loss.isfinite(), f"the loss is {loss.item()}"
    loss.backward()
    _check_gradients(method.backbone)
    # In training mode, a network with dropout uses the global random state.
    first, second = (compute_loss(seed, is_training=False)[0] for seed in (0, 1))
    assert first.equal(second) or not method.supports_data_parallel, (
        "the loss differs if it is computed again, and so would the losses of several processes: take all random "
        "numbers from sample_random_inputs, or set supports_data_parallel = False"
    )


def _check_features(features: torch.Tensor, shape: tuple[int, int], mode: str) -> None:
    assert isinstance(features, torch.Tensor), (
        f"in {mode} mode, the output must be a tensor (B, num_features), got {type(features).__name__}"
    )
    assert tuple(features.shape) == shape, (
        f"in {mode} mode, the output must have shape (B, num_features) = {shape}, got {tuple(features.shape)}"
    )
    assert features.dtype == torch.float32, f"in {mode} mode, the output must be float32, got {features.dtype}"
    assert features.isfinite().all(), f"in {mode} mode, the output contains NaN or infinite values"


def _check_gradients(backbone: backbones.Backbone) -> None:
    for name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        assert gradient is not None, f"the backbone parameter {name} receives no gradient"
        assert gradient.isfinite().all(), f"the gradient of the backbone parameter {name} is NaN or infinite"
        assert gradient.any(), f"the gradient of the backbone parameter {name} is zero"


def _train(job: Job, data: Path, outputs: paths.PretrainFolder, interrupt: bool) -> tuple[bytes, bytes]:
    """Train, and return the weights and the history. If `interrupt` is true, stop in the second epoch and continue."""
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
