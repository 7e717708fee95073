"""Estimate the time, I/O, memory and disk space that a grid's pretraining runs need."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from rr import backbones, methods, paths
from rr.data.beton import MAX_RESIDENT_BYTES
from rr.methods.base import Method
from rr.methods.requirements import depends_on_num_epochs
from rr.params import ExtensionBackboneConfig, Params
from rr.params.backbones import BUILTIN_BACKBONES
from rr.params.extensions import is_extension_kind
from rr.params.methods import TrainableConfig
from rr.params.optimizers import AdamConfig, LARSConfig, SGDConfig
from rr.pretrain.checkpoint import SECONDS_BETWEEN_CHECKPOINTS

_MAX_IMAGE_SIZE = 128  # pixels; a large network would take several seconds to process a larger image
_LABEL_BYTES = 8  # size of one DeepCluster cluster label
_BYTES_PER_TENSOR = 400  # metadata of a tensor in a checkpoint, including its share of Adam's step counts
_BYTES_PER_HISTORY_ROW = 150


@dataclass(frozen=True)
class MakespanBounds:
    """How long a set of runs takes on several GPUs that each train one model at a time, in the unit of the durations.

    Attributes:
        longest_first: time if the longest runs start first.
        lower_bound: no order is faster, because one GPU has at least the mean load, and one GPU has the longest run.
        upper_bound: no order is slower, as long as no GPU is idle while a run is waiting (R. L. Graham, 1966).
    """

    longest_first: float
    lower_bound: float
    upper_bound: float


@dataclass(frozen=True)
class IoEstimate:
    """Bytes that one pretraining run reads from betons and writes to checkpoints, and the sizes of its checkpoints.

    `kept_bytes` is the size of the checkpoint that remains after the run.
    """

    read_bytes: int
    write_bytes: int
    checkpoint_bytes: int
    kept_bytes: int


def estimate_makespan(durations: Sequence[float], gpus: int) -> MakespanBounds:
    """Return bounds on how long runs with these `durations` take on `gpus` GPUs."""
    finish_times = [0.0] * max(1, min(gpus, len(durations)))  # GPUs without a run do not count
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(finish_times, finish_times[0] + duration)
    longest, mean_load = max(durations, default=0.0), sum(durations) / gpus
    return MakespanBounds(max(finish_times), max(longest, mean_load), mean_load + (1 - 1 / gpus) * longest)


def estimate_io(
    params: Params, run: paths.PretrainPaths, num_images: int, num_classes: int, train_seconds: float
) -> IoEstimate:
    """Estimate the bytes that `run` reads and writes if it trains for `train_seconds` without interruption.

    Pixels are read once if they fit in memory, and otherwise in every epoch; photographs are always read in every
    epoch. A checkpoint is saved after each epoch and, within an epoch, every `SECONDS_BETWEEN_CHECKPOINTS` seconds.
    With DeepCluster, a checkpoint within an epoch also contains the cluster labels. All checkpoints are assumed to be
    as large as the last one, which contains the whole history.
    """
    config: Any = params.methods[run.method]
    dataset = params.datasets[run.dataset]
    image_bytes = num_images * dataset.estimated_image_bytes
    is_read_once = dataset.stored_size is None and image_bytes <= MAX_RESIDENT_BYTES
    backbone_config = params.backbones.get(run.backbone)
    # User-defined classes may read tensor values when they are built, and tensors on the `meta` device have no values.
    is_user_defined = is_extension_kind(config.kind) or isinstance(backbone_config, ExtensionBackboneConfig)
    with torch.device("cpu" if is_user_defined else "meta"):
        backbone = backbones.build(run.backbone, dataset.image_size, backbone_config)
        method = methods.build(config, backbone, num_classes, num_images)
    checkpoint_size = _estimate_checkpoint_size(method, config)
    saves_within_epoch = int(train_seconds / config.epochs / SECONDS_BETWEEN_CHECKPOINTS)
    labels = _LABEL_BYTES * num_images if config.kind == "deepcluster" and saves_within_epoch else 0
    return IoEstimate(
        read_bytes=image_bytes * (1 if is_read_once else config.epochs),
        write_bytes=config.epochs * (checkpoint_size + saves_within_epoch * (checkpoint_size + labels)),
        checkpoint_bytes=checkpoint_size + labels,
        kept_bytes=0 if depends_on_num_epochs(config) else checkpoint_size,
    )


def _estimate_checkpoint_size(method: Method, config: TrainableConfig) -> int:
    """Return the approximate size in bytes of a run's last checkpoint."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    match config.optimizer:
        case AdamConfig():
            num_moments = 2
        case LARSConfig():
            num_moments = 1
        case SGDConfig(momentum=momentum):
            num_moments = int(momentum > 0)
    stored = [*method.state_dict().values(), *(trained * num_moments)]
    num_bytes = sum(tensor.nbytes for tensor in stored)
    return num_bytes + _BYTES_PER_TENSOR * len(stored) + _BYTES_PER_HISTORY_ROW * config.epochs


def estimate_min_step_bytes(params: Params, backbone: str, dataset: str, num_views: int, precision: str) -> int:
    """Return a lower bound on the memory in bytes that a training step with `num_views` views needs.

    The bound includes the weights, the gradients of those that are trained, the views, and the convolution outputs that
    the backward pass needs. Actual memory use is usually two to three times as high.
    """
    image_size = params.datasets[dataset].image_size
    network = measure_network(params, backbone, dataset)
    bytes_per_output = 2 if precision == "bfloat16" else 4
    bytes_per_view = 4 * 3 * image_size**2 + bytes_per_output * network.num_conv_outputs
    return 4 * (network.num_weights + network.num_trained) + int(num_views * bytes_per_view)


def estimate_features_bytes(params: Params, extraction: paths.FeaturePaths, num_images: int) -> int:
    """Return the size in bytes of the float32 features of `num_images` images."""
    network = measure_network(params, extraction.pretraining.backbone, extraction.target)
    return 4 * network.num_features * num_images


def estimate_pretrain_output_bytes(params: Params, run: paths.PretrainPaths) -> int:
    """Estimate the size in bytes of the files that remain after a run.

    These are the backbone and, for methods that are trained, the state before the last epoch and, unless they depend
    on the number of epochs, the last checkpoint. The state and the checkpoint contain the weights and two optimizer
    moments per weight.
    """
    config = params.methods[run.method]
    num_states = 0
    if isinstance(config, TrainableConfig):
        num_states = 1 if depends_on_num_epochs(config) else 2
    return (1 + 3 * num_states) * 4 * measure_network(params, run.backbone, run.dataset).num_weights


class _NetworkSize(NamedTuple):
    """A backbone's numbers of weights and features, and how many values its convolutions output for one image.

    `num_trained` is the number of weights that are not frozen.
    """

    num_weights: int
    num_trained: int
    num_features: int
    num_conv_outputs: float


def measure_network(params: Params, backbone: str, dataset: str) -> _NetworkSize:
    """Return the size of a backbone that is built for the images of a dataset."""
    return _build_and_measure(backbone, params.datasets[dataset].image_size, params.backbones.get(backbone))


@cache
def _build_and_measure(name: str, image_size: int, config: ExtensionBackboneConfig | None) -> _NetworkSize:
    """Build a backbone and pass an image through it, without changing torch's random state.

    If possible, a large image is replaced by a smaller one, and the number of outputs is extrapolated. The `meta`
    device is not used, because a forward pass on it loads torch._dynamo, which takes a second.
    """
    num_outputs = 0

    def count_outputs(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal num_outputs
        num_outputs += output.numel()

    # A network from outside this project is built for one image size.
    side = min(image_size, _MAX_IMAGE_SIZE) if name in BUILTIN_BACKBONES else image_size
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        backbone = backbones.build(name, side, config).eval()
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count_outputs)
        backbone(torch.zeros(1, 3, side, side))
    if config:
        backbones.check_output(backbone, config.kind, side, "cpu")
    num_weights = sum(parameter.numel() for parameter in backbone.parameters())
    num_trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    return _NetworkSize(num_weights, num_trained, backbone.num_features, num_outputs * (image_size / side) ** 2)
