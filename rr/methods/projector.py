"""The projector: a small network on top of the backbone that most methods train and discard afterwards."""

from torch import nn


def build_projector(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """Create a sequence of Linear, BatchNorm1d, LeakyReLU(0.01) and Linear, as in the paper's code."""
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.LeakyReLU(0.01),
        nn.Linear(hidden_dim, output_dim),
    )
