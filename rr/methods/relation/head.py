"""The relation head: a small network that scores a pair of representations."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Aggregation = Literal["cat", "sum", "mean", "max"]


class RelationHead(nn.Module):
    """Linear - BatchNorm1d - LeakyReLU(0.01) - Linear, one logit per aggregated pair (paper, section on the relation
    module; the sizes are those of the paper's code).

    Args:
        features: size D of one representation.
        aggregation: how two representations become one input: ``cat`` (2D values, earlier view first), ``sum``,
            ``mean`` or element-wise ``max`` (D values).
        hidden: width of the hidden layer.

    Raises ValueError for an unknown aggregation or sizes below 1.
    """

    def __init__(self, features: int, aggregation: Aggregation = "cat", hidden: int = 256) -> None:
        super().__init__()
        if aggregation not in get_args(Aggregation):
            raise ValueError(f"aggregation must be one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")
        if features < 1 or hidden < 1:
            raise ValueError(f"features and hidden must be at least 1, got {features} and {hidden}")
        self.features = features
        self.aggregation: Aggregation = aggregation
        self.linear = nn.Linear(2 * features if aggregation == "cat" else features, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.activation = nn.LeakyReLU(0.01)
        self.output = nn.Linear(hidden, 1)

    def aggregate(self, left_PD: Tensor, right_PD: Tensor) -> Tensor:
        """Join two ``(P, D)`` tensors of representations into the ``(P, 2D or D)`` input of the first layer."""
        if self.aggregation == "cat":
            return torch.cat((left_PD, right_PD), dim=1)
        if self.aggregation == "sum":
            return left_PD + right_PD
        if self.aggregation == "mean":
            return (left_PD + right_PD) / 2
        return torch.maximum(left_PD, right_PD)

    def forward(self, pairs_PI: Tensor) -> Tensor:
        """Logits ``(P,)`` of aggregated pairs ``(P, 2D or D)``; above 0 means "same image"."""
        return self.output(self.activation(self.norm(self.linear(pairs_PI)))).squeeze(1)
