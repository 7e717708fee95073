"""Figures of the space of representations that need no classifier."""

import torch
from torch import Tensor
from torch.nn import functional as F


def effective_rank(features: Tensor) -> float:
    """How many directions the features use: exp of the entropy of their normalised singular values, in [1, D].

    Features float (N, D), centred first. From Roy and Vetterli 2007, *The effective rank*; features that are all the
    same have rank 1.
    """
    centred = features.double() - features.double().mean(0)
    # Of the D × D covariance, which is small, instead of all rows.
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    if values.sum() == 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the normalised features of two views of a picture; 0 when views make no difference.

    Both float (N, D). Wang and Isola 2020, *Understanding Contrastive Representation Learning*, with exponent 2.
    """
    return float((F.normalize(first.double()) - F.normalize(second.double())).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Logarithm of the mean of exp(−2 d²) over all pairs of normalised features, at most 0; lower is more even.

    Features float (N, D), N at least 2. Wang and Isola 2020, with t = 2.
    """
    distances = torch.pdist(F.normalize(features.double()))
    return float((-2 * distances.square()).exp().mean().log())
