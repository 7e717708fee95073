"""The relation head: a small network that scores a pair of representations."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Aggregation = Literal["cat", "sum", "mean", "max"]

NEGATIVE_SLOPE = 0.01  # of the LeakyReLU; the fused kernels are compiled with this value


class RelationHead(nn.Module):
    """Predict whether two representations come from the same image (see the paper's section on the relation module).

    The layers are Linear, BatchNorm1d, LeakyReLU(0.01) and Linear, with the same sizes as in the paper's code. The
    input is an aggregated pair of representations, and the output is one logit: `head(head.aggregate(left, right))`.
    With `cat`, the logit depends on the order of the two representations; `rr.compare` uses the mean of the logits for
    both orders.

    Args:
        num_features: the size D of a representation.
        aggregation: how two representations become one input: `cat` (2D values, the earlier view first), or `sum`,
            `mean` or element-wise `max` (D values).
        hidden_dim: the width of the hidden layer.

    Raises:
        ValueError: if the aggregation is unknown or a size is below 1.
    """

    def __init__(self, num_features: int, aggregation: Aggregation = "cat", hidden_dim: int = 256) -> None:
        super().__init__()
        if aggregation not in get_args(Aggregation):
            raise ValueError(f"aggregation must be one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")
        if num_features < 1 or hidden_dim < 1:
            raise ValueError(f"num_features and hidden_dim must be at least 1, got {num_features} and {hidden_dim}")
        self.num_features = num_features
        self.aggregation: Aggregation = aggregation
        self.linear = nn.Linear(2 * num_features if aggregation == "cat" else num_features, hidden_dim)
        self.norm = nn.BatchNorm1d(hidden_dim)
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        self.output = nn.Linear(hidden_dim, 1)

    def aggregate(self, left_PD: Tensor, right_PD: Tensor) -> Tensor:
        """Combine two tensors of representations, (P, D) each, into the input of the first layer, (P, 2D) or (P, D)."""
        if self.aggregation == "cat":
            return torch.cat((left_PD, right_PD), dim=1)
        if self.aggregation == "sum":
            return left_PD + right_PD
        if self.aggregation == "mean":
            return (left_PD + right_PD) / 2
        return torch.maximum(left_PD, right_PD)

    def forward(self, pairs_PI: Tensor) -> Tensor:
        """Return the logits (P,) of aggregated pairs; a logit above 0 predicts "same image"."""
        return self.output(self.activation(self.norm(self.linear(pairs_PI)))).squeeze(1)
