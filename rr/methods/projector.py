"""The small network that most methods put on a representation and throw away after training."""

from torch import nn


def projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear - BatchNorm1d - LeakyReLU(0.01) - Linear: (N, inputs) to (N, outputs) (the paper's code)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, outputs)
    )
