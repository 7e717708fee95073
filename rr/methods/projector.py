"""The projector: a small network that some methods train on top of the backbone and discard after pretraining."""

from torch import nn

from rr.params.methods import ProjectorConfig


def build_projector(input_dim: int, config: ProjectorConfig) -> nn.Sequential:
    """Create the projector that `config` describes, with the layers of `build_mlp`."""
    projector = build_mlp(input_dim, config.hidden_dim, config.projection_dim, config.projector_layers)
    if config.projector_output_norm:
        projector.append(nn.BatchNorm1d(config.projection_dim))
    return projector


def build_mlp(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 2) -> nn.Sequential:
    """Create a multilayer perceptron with the same kinds of layers as in the paper's code.

    Each of the `num_layers` - 1 hidden layers consists of Linear, BatchNorm1d and LeakyReLU(0.01). The output layer is
    Linear.
    """
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.LeakyReLU(0.01)]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
