"""Optimizers, and learning rate schedules that depend only on training progress.

A schedule has no state, so a training run that continues from a checkpoint uses the same learning rates as an
uninterrupted run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from rr.params.optimizers import OptimizerConfig, ScheduleConfig


# The optimizer methods whose decorators load torch._dynamo. The first four belong to the base class.
DETACHED_METHODS = [
    *((torch.optim.Optimizer, name) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")),
    (torch.optim.Adam, "step"),
    (torch.optim.SGD, "step"),
]


def detach_optimizers_from_dynamo() -> None:
    """Remove the optimizer decorators that load torch._dynamo.

    Loading it takes about as long as loading torch. Only code that `torch.compile` traces needs these decorators, and
    this project does not compile optimizers.
    """
    for kind, name in DETACHED_METHODS:
        method = inspect.unwrap(getattr(kind, name))
        setattr(kind, name, torch.no_grad()(method) if name == "step" else method)


def make_optimizer(config: OptimizerConfig, groups: Iterable[tuple[Iterable[nn.Parameter], float]]) -> Optimizer:
    """Create an optimizer for the parameters that require a gradient.

    AdamW and LARS do not decay parameters with fewer than two dimensions, that is, biases and the parameters of
    normalization layers.

    Args:
        config: the kind of optimizer and its settings.
        groups: parameters, paired with their learning rate before the schedule is applied.
    """
    param_groups: list[dict[str, Any]] = []
    for parameters, learning_rate in groups:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        parts = [(trained, config.weight_decay)]
        if config.kind == "adamw":
            parts = [
                ([parameter for parameter in trained if parameter.ndim > 1], config.weight_decay),
                ([parameter for parameter in trained if parameter.ndim <= 1], 0.0),
            ]
        for part, weight_decay in parts:
            if part:
                rates = {"lr": learning_rate, "base_lr": learning_rate}
                param_groups.append({"params": part, "weight_decay": weight_decay, **rates})
    match config.kind:
        case "adam":
            return torch.optim.Adam(param_groups, fused=True)
        case "adamw":
            return torch.optim.AdamW(param_groups, fused=True)
        case "sgd":
            return torch.optim.SGD(param_groups, momentum=config.momentum, fused=True)
        case "lars":
            return LARS(param_groups, config.momentum, config.trust_coefficient)


def set_learning_rates(optimizer: Optimizer, schedule: ScheduleConfig, epoch: float, num_epochs: int) -> None:
    """Set the learning rates for the next step of an optimizer that `make_optimizer` created.

    Args:
        optimizer: the optimizer.
        schedule: the learning rate schedule.
        epoch: number of completed epochs, including the completed fraction of the current epoch.
        num_epochs: total number of epochs.
    """
    for group in optimizer.param_groups:
        group["lr"] = scheduled_learning_rate(schedule, group["base_lr"], epoch, num_epochs)


def scheduled_learning_rate(schedule: ScheduleConfig, base: float, epoch: float, num_epochs: int) -> float:
    """Return the learning rate after `epoch` of `num_epochs` epochs; `base` is the rate without a schedule."""
    if epoch < schedule.warmup_epochs:
        return base * epoch / schedule.warmup_epochs
    if schedule.kind == "cosine":
        progress = (epoch - schedule.warmup_epochs) / (num_epochs - schedule.warmup_epochs)
        return base * (1 + math.cos(math.pi * progress)) / 2
    rate = base
    if schedule.kind == "steps":
        for milestone in milestone_epochs(schedule.milestones, num_epochs):
            rate *= schedule.lr_decay if epoch >= milestone else 1.0
    return rate


def milestone_epochs(fractions: Sequence[float], num_epochs: int) -> list[int]:
    """Return the (0-based) epochs at whose start the learning rate decays.

    As in the paper's code, a fraction of the number of epochs is rounded down, and milestones in the same epoch count
    only once. Unlike in that code, the first epoch is never a milestone.
    """
    # Without the inner rounding, 0.29 of 100 epochs would be 28, because 0.29 * 100 is 28.999999999999996.
    return sorted({max(1, int(round(fraction * num_epochs, 6))) for fraction in fractions})


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg, 2017), as in the official Barlow Twins code.

    A weight w with gradient g moves by -lr * v, where v = momentum * v + trust_coefficient * |w| / |d| * d and
    d = g + weight_decay * w. If |w| or |d| is 0, d is not scaled. Parameters with fewer than two dimensions are biases
    and parameters of normalization layers. For these, d = g, without scaling.

    Args:
        params: the parameters, or groups of parameters with their `lr` and `weight_decay`.
        momentum: the momentum.
        trust_coefficient: the trust coefficient.
    """

    def __init__(self, params: Any, momentum: float, trust_coefficient: float) -> None:
        super().__init__(params, {"momentum": momentum, "trust_coefficient": trust_coefficient})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update: Tensor = parameter.grad
                if parameter.ndim > 1:
                    update = update.add(parameter, alpha=group["weight_decay"])
                    ratio = group["trust_coefficient"] * parameter.norm() / update.norm()
                    update = update * torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                parameter.add_(velocity, alpha=-group["lr"])
