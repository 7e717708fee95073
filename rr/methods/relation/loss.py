"""The relation loss.

`relation_loss` usually applies the first linear layer of the head once per representation instead of once per pair.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rr.compute.plain_layers import is_plain
from rr.compute.torch_threads import single_threaded
from rr.methods.relation.factorized import factorized_relation_loss
from rr.methods.relation.head import NEGATIVE_SLOPE, RelationHead
from rr.methods.relation.pair_loss import PAPER_PAIR_LOSS, PairLossConfig, PairStatistics
from rr.methods.relation.pairs import roll_negative_rows

# Up to this number of views, the plain torch implementation is faster than the fused kernel.
TORCH_MAX_VIEWS = 3
# Below this number of pairs times hidden units, a second thread costs more than it saves.
SINGLE_THREAD_MAX_WORK = 1_000_000
# With this many input features, the first layer takes as long per row as all later steps take per partner.
FEATURES_PER_PARTNER = 64


def relation_loss(
    head: RelationHead,
    features_KMD: Tensor,
    negative_rows: Tensor | None = None,
    positive_rows: Tensor | None = None,
    config: PairLossConfig = PAPER_PAIR_LOSS,
) -> tuple[Tensor, PairStatistics]:
    """Return the loss of all pairs and the statistics of the predictions.

    A head in training mode normalizes with the statistics of all pairs and updates its running statistics as
    `BatchNorm1d` does. Only first derivatives are available. On a CPU, the fused kernel handles float32 features of
    more than `TORCH_MAX_VIEWS` views. All other cases, including `max` aggregation and a head with replaced layers or
    with hooks on its layers, use the plain torch implementation. Neither calls `head` itself.

    Args:
        head: the relation head.
        features_KMD: representations of K views of M images.
        negative_rows: for each pair of views i < j and each row of view i, the row of its negative partner in view j:
            int64 (K(K-1)/2, M). The default is `rr.partners(K, M)`, as in the paper's code. If M = 1, the shape is
            (K(K-1)/2, 0), and the loss covers only positive pairs.
        positive_rows: the row of the positive partner, int64 (K(K-1)/2, M). The default is the same image, as in the
            paper.
        config: the loss function for a pair.

    Raises:
        ValueError: if the head is not a RelationHead, or the config not a PairLossConfig; if a tensor has an invalid
            shape, dtype or device; if a row is out of range or is its own negative partner (checked only on the CPU,
            because reading a tensor on a different device would wait for that device); if there is only one pair to
            normalize in training mode (K = 2 and M = 1); or if the head overrides `forward` or `aggregate`.
    """
    given_rows = {"negative_rows": negative_rows, "positive_rows": positive_rows}
    if negative_rows is None and isinstance(features_KMD, Tensor) and features_KMD.ndim == 3:
        negative_rows = roll_negative_rows(*features_KMD.shape[:2], device=features_KMD.device)
    check_tensors(head, features_KMD, negative_rows, positive_rows)
    if not isinstance(config, PairLossConfig):
        raise ValueError(f"config must be a PairLossConfig, got {config!r}: pass rr.PairLossConfig(kind=…)")
    for name in ("forward", "aggregate"):
        if getattr(type(head), name) is not getattr(RelationHead, name):
            raise ValueError(f"{type(head).__name__} overrides {name}, which relation_loss does not call")
    K, M, _ = features_KMD.shape
    if head.norm.training and K == 2 and M == 1:
        raise ValueError("batch statistics need more than one pair, but K = 2 views of M = 1 image make a single pair")
    for name, rows in given_rows.items():
        if rows is None or rows.device.type != "cpu" or not rows.numel() or torch.compiler.is_compiling():
            continue
        lowest, highest = rows.aminmax()
        if lowest < 0 or highest >= M:
            raise ValueError(
                f"{name} must contain rows of the mini-batch, 0 to {M - 1}, but contains "
                f"{int(lowest if lowest < 0 else highest)}"
            )
        if name == "negative_rows" and (rows == torch.arange(M, device="cpu")).any():
            raise ValueError(
                "negative_rows must not contain a row's own number, because the negative partner must be another "
                "image: use rr.partners(K, M, generator) for random partners"
            )
    work = K * M * max(K - 1, head.linear.in_features // FEATURES_PER_PARTNER) * len(head.linear.weight)
    is_small = features_KMD.device.type == "cpu" and work < SINGLE_THREAD_MAX_WORK
    with single_threaded() if is_small and not torch.compiler.is_compiling() else contextlib.nullcontext():
        return _select_implementation(head, features_KMD)(head, features_KMD, negative_rows, positive_rows, config)


def _select_implementation(head: RelationHead, features_KMD: Tensor) -> Callable[..., tuple[Tensor, PairStatistics]]:
    """Return the fastest implementation that supports the head and the features."""
    norm, activation = head.norm, head.activation
    layers = {head.linear: nn.Linear, norm: nn.BatchNorm1d, activation: nn.LeakyReLU, head.output: nn.Linear}
    if (
        head.aggregation != "max"
        and all(is_plain(layer, kind) for layer, kind in layers.items())
        and head.linear.bias is not None
        and head.output.bias is not None
        and activation.negative_slope == NEGATIVE_SLOPE
        and features_KMD.device.type == head.linear.weight.device.type == "cpu"
        and features_KMD.dtype == head.linear.weight.dtype == torch.float32
        and features_KMD.shape[0] > TORCH_MAX_VIEWS
        and norm.momentum is not None
        and norm.affine
        and norm.track_running_stats
        and not torch.compiler.is_compiling()
    ):
        from rr.methods.relation.fused import fused_relation_loss  # importing numba takes a while

        return fused_relation_loss
    return factorized_relation_loss


def check_tensors(
    head: RelationHead, features_KMD: Tensor, negative_rows: Tensor | None, positive_rows: Tensor | None
) -> None:
    """Raise ValueError if an argument of `relation_loss` has an invalid shape, dtype or device."""
    if not isinstance(features_KMD, Tensor):
        raise ValueError(f"features_KMD must be a tensor, got {type(features_KMD).__name__}")
    if features_KMD.ndim != 3:
        raise ValueError(f"features_KMD must have shape (views K, images M, size D), got {tuple(features_KMD.shape)}")
    K, M, D = features_KMD.shape
    if K < 2 or M < 1:
        raise ValueError(f"at least 2 views of at least 1 image are needed, got K = {K} views of M = {M} images")
    if not isinstance(head, RelationHead):
        raise ValueError(
            f"head must be a RelationHead, got {type(head).__name__}: pass the head itself; with "
            "DistributedDataParallel, wrap a module whose forward calls the backbone and relation_loss"
        )
    if head.num_features != D:
        raise ValueError(f"the head expects features of size {head.num_features}, got {D}")
    if features_KMD.dtype != head.linear.weight.dtype and not torch.is_autocast_enabled(features_KMD.device.type):
        raise ValueError(
            f"the features are {features_KMD.dtype}, but the head is {head.linear.weight.dtype}: convert one of them"
        )
    if torch.finfo(head.linear.weight.dtype).bits < 32:
        raise ValueError(f"the head is {head.linear.weight.dtype}, but must be at least float32: convert it")
    num_negatives = M if M > 1 else 0
    for name, rows, num_columns in (
        ("negative_rows", negative_rows, num_negatives),
        ("positive_rows", positive_rows, M),
    ):
        shape = (K * (K - 1) // 2, num_columns)
        if not isinstance(rows, Tensor | None):
            raise ValueError(f"{name} must be a tensor, got {type(rows).__name__}")
        if rows is not None and (
            tuple(rows.shape) != shape or rows.dtype != torch.int64 or rows.device != features_KMD.device
        ):
            raise ValueError(
                f"{name} must be int64 of shape {shape} on {features_KMD.device}, got {rows.dtype} of shape "
                f"{tuple(rows.shape)} on {rows.device}"
            )
