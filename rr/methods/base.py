"""The base class of pretraining methods: what the training loop expects from a method."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.errors import UserError

if TYPE_CHECKING:  # most methods do not need the relation head and its loss
    from rr.methods.relation.head import RelationHead

# The metrics of one step, by name. Each is a numerator and a denominator, which the training loop sums over an epoch.
Metrics = dict[str, tuple[Tensor | int, Tensor | int]]


class Method(nn.Module):
    """A backbone and everything needed to train it.

    A subclass implements `loss` and may override the other methods, whose defaults suit most pretraining methods. The
    constructor of a user-defined method is called with its `Config` and the backbone.

    Attributes:
        backbone: the network that is kept after training.
        epoch: the current epoch, counted from 0. The training loop sets it before `update_pseudo_labels` and
            after a restart. See `progress` for its use in `loss`.
        progress: the fraction of training that was complete before the current step, in [0, 1). The training loop sets
            it before each step, for use in `after_step`. On a GPU, a `loss` that reads `epoch` or `progress` is
            compiled again for each value. After eight compilations, torch runs it uncompiled, which is slower.
        supports_data_parallel: whether several processes can share a mini-batch. This requires that `loss` passes the
            views to the backbone, or to a copy of it, in training mode, and uses them for nothing else: each process
            encodes the views of its own images, and the backbone returns the representations of all images.
    """

    supports_data_parallel = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.epoch = 0
        self.progress = 0.0

    def setup(self, num_images: int, num_classes: int) -> None:
        """Create the layers and buffers whose sizes depend on the training data (none by default).

        For a user-defined method, this is called once, right after the constructor.

        Args:
            num_images: number of training images, N.
            num_classes: number of classes in the dataset, or 0 if it has none.
        """

    @property
    def num_features(self) -> int:
        """The size D of a representation."""
        return self.backbone.num_features

    @property
    def trained_classifier(self) -> nn.Linear | None:
        """The layer that predicts the dataset's classes, or None. It is saved with the backbone."""
        return None

    @property
    def relation_head(self) -> RelationHead | None:
        """The network that scores pairs of representations, or None. It is saved with the backbone."""
        return None

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the loss of a mini-batch and its metrics, without waiting for the device.

        Args:
            views: float (K·M, 3, S, S), view-major: the first M rows are view 1 of all images. If several processes
                share the mini-batch, these are only the views of this process's images.
            labels: int64 (M,), the labels from `update_pseudo_labels` or, without them, those of the dataset. A label
                is -1 if the image has none or if the method's `label_fraction` withholds it.
            random_inputs: what `sample_random_inputs` returned for this step, on the device of `views`.

        Returns:
            The loss, of shape (), and the metrics, which include `accuracy`. The loss of the first step must depend on
            the backbone. The names of the other columns of the history (`epoch`, `loss`, `views`, …) are not allowed
            for metrics.
        """
        raise NotImplementedError

    def count_pairs(self, num_images: int) -> int:
        """Return the number of pairs of representations that the loss of a mini-batch compares (0 by default)."""
        return 0

    def sample_random_inputs(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Sample all random numbers that the loss needs for `num_images` images.

        If several processes share a mini-batch, all of them receive the same numbers, while torch's global generator
        has a different state in each process.

        Returns:
            Tensors of any shape and of any type that NumPy has, on the CPU.
        """
        return ()

    def update_pseudo_labels(self, extract_features: Callable[[], Tensor], seed: int) -> Tensor | None:
        """Compute the labels that replace the dataset's labels in the next epoch, if the method uses such labels.

        A method that needs the index of each image, for example for a memory bank, can return `torch.arange(N)`.

        The training loop calls this before each epoch, in eval mode. If it continues an epoch from a checkpoint, it
        skips this call, because the checkpoint contains the labels.

        Args:
            extract_features: returns the representations of all N training images, float32 (N, D) on the CPU, computed
                in eval mode and without augmentation.
            seed: a seed that differs between epochs.

        Returns:
            int64 (N,), or None to use the dataset's labels.
        """
        return None

    def after_step(self) -> None:
        """Update parameters that have no gradients. The training loop calls this after each optimizer step."""


def check_loss_result(kind: str, result: Any, reserved_names: Collection[str]) -> tuple[Tensor, Metrics]:
    """Check the return value of `Method.loss`, and return it.

    Args:
        kind: the method's `kind` in params.yaml.
        result: the return value of `loss`.
        reserved_names: names that a metric must not have.

    Raises:
        UserError: if the result does not consist of a loss and its metrics.
    """
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        parts = ", ".join(type(part).__name__ for part in result) if isinstance(result, tuple) else ""
        got = f"({parts})" if isinstance(result, tuple) else type(result).__name__
        raise UserError(f"{kind}: loss must return the loss and a dict of metrics, got {got}")
    loss, metrics = result
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        what += " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise UserError(f"{kind}: the loss must be a tensor of shape () that depends on trainable weights, got {what}")
    if "accuracy" not in metrics:
        raise UserError(f"{kind}: loss must return metrics that include accuracy")
    for name, value in metrics.items():
        if name in reserved_names:
            raise UserError(f"{kind}: a metric must not have the name {name}, which the history uses: rename it")
        if not (isinstance(value, tuple) and len(value) == 2):
            raise UserError(f"{kind}: the metric {name} must be a pair of a numerator and a denominator, got {value!r}")
        for part in value:
            if not isinstance(part, int | float | np.generic | Tensor) or (isinstance(part, Tensor) and part.ndim):
                got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else repr(part)
                raise UserError(
                    f"{kind}: the numerator and denominator of {name} must be numbers or tensors of shape (), got {got}"
                )
    return loss, metrics


def check_pseudo_labels(kind: str, labels: Any, num_images: int) -> Tensor | None:
    """Check the return value of `Method.update_pseudo_labels`, and return it.

    Args:
        kind: the method's `kind` in params.yaml.
        labels: the return value of `update_pseudo_labels`.
        num_images: the number of training images.

    Raises:
        UserError: if `labels` is neither None nor an int64 tensor (num_images,) on the CPU.
    """
    is_tensor = isinstance(labels, Tensor)
    expected = ((num_images,), torch.int64, "cpu")
    if labels is None:
        return None
    if is_tensor and (tuple(labels.shape), labels.dtype, labels.device.type) == expected:
        return labels.contiguous()  # the broadcast to other processes needs contiguous memory
    got = f"{labels.dtype} {tuple(labels.shape)} on {labels.device}" if is_tensor else type(labels).__name__
    raise UserError(
        f"{kind}: update_pseudo_labels must return None or a tensor, torch.int64 ({num_images},) on cpu, got {got}"
    )


def check_saved_layers(kind: str, method: Method, num_classes: int) -> None:
    """Check that the layers saved with the backbone can be loaded again and evaluated.

    Args:
        kind: the method's `kind` in params.yaml.
        method: the method.
        num_classes: number of classes in the dataset.

    Raises:
        UserError: if `trained_classifier` or `relation_head` is not the layer that the evaluation expects.
    """
    classifier, head, D = method.trained_classifier, method.relation_head, method.num_features
    shapes = {"weight": (num_classes, D), "bias": (num_classes,)}
    if classifier is not None and not (
        isinstance(classifier, nn.Linear)
        and type(classifier).forward is nn.Linear.forward
        and {name: tuple(value.shape) for name, value in classifier.state_dict().items()} == shapes
    ):
        got = classifier if isinstance(classifier, nn.Linear) else type(classifier).__name__
        raise UserError(
            f"{kind}: trained_classifier must be None or nn.Linear({D}, {num_classes}) with a bias, got {got}"
        )
    if head is not None and (problem := find_head_problem(head, D)):
        raise UserError(f"{kind}: {problem}")


def find_head_problem(head: object, num_features: int) -> str | None:
    """Return why a relation head cannot be saved and evaluated, or None if it can.

    Args:
        head: the relation head.
        num_features: the size D of a representation.
    """
    from rr.methods.relation.head import RelationHead

    if not isinstance(head, RelationHead):
        return f"relation_head must be None or an rr.methods.relation.RelationHead, got {type(head).__name__}"
    H = head.output.in_features if isinstance(head.output, nn.Linear) else 1
    with torch.device("meta"):  # uses no random numbers
        expected = RelationHead(num_features, head.aggregation, H).float()
    if _facts_for_evaluation(head) == _facts_for_evaluation(expected):
        return None
    layers, found = (", ".join(map(str, module.children())) for module in (expected, head))
    dtypes = {str(parameter.dtype) for parameter in head.parameters()} - {"torch.float32"}
    return (
        f"relation_head must keep the layers of RelationHead({num_features}, {head.aggregation!r}, {H}) in "
        f"torch.float32, which re-ranking and rr compare assume: {layers}, got {found}"
        + (f" in {' and '.join(sorted(dtypes))}" if dtypes else "")
    )


def _facts_for_evaluation(head: RelationHead) -> tuple[dict[str, tuple[torch.Size, torch.dtype]], Any, Any]:
    """Return everything that determines how a relation head is evaluated, except for the values of its weights."""
    tensors = {name: (value.shape, value.dtype) for name, value in head.state_dict().items()}
    return tensors, getattr(head.norm, "eps", None), getattr(head.activation, "negative_slope", None)
