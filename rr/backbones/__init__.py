"""Backbones: image (B, 3, S, S) in, representation (B, features) out, for any side S."""

from torch import nn

from rr.backbones.conv4 import Conv4

_BACKBONES = {"conv4": Conv4}


def build(name: str) -> nn.Module:
    """Create a freshly initialised backbone; torch's global generator decides its weights."""
    return _BACKBONES[name]()
