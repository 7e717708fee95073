"""Recognize layers that faster code may replace."""

from torch import nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a layer is exactly of this class and has no hooks, so that its parameters determine its output."""
    return type(layer) is kind and not any(getattr(layer, hooks) for hooks in _HOOKS)
