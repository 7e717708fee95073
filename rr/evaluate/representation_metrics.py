"""Metrics of a representation that need no classifier."""

import torch
from torch import Tensor
from torch.nn import functional as F


def effective_rank(features: Tensor) -> float:
    """Return the effective rank of the features, from 1 to D. It measures how many directions they use.

    It is the exponential of the entropy of the normalized singular values of the centered features (Roy and Vetterli
    2007, *The effective rank*). Identical features have rank 1.

    Args:
        features: float (N, D).
    """
    return _exp_entropy_of_singular_values(features.double() - features.double().mean(0))


def rankme(features: Tensor) -> float:
    """Return RankMe, the effective rank of the uncentered features, from 1 to min(N, D).

    It is 1 if all features point in the same direction, i.e. if the network has collapsed. See Garrido et al. 2023,
    *RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their Rank*. Their
    constant of 1e-7, which prevents taking the logarithm of 0, is omitted.

    Args:
        features: float (N, D).
    """
    return _exp_entropy_of_singular_values(features.double())


def _exp_entropy_of_singular_values(matrix: Tensor) -> float:
    """Return the exponential of the entropy of the normalized singular values, or 1 if all of them are 0."""
    # The singular values of the matrix are the square roots of the eigenvalues of this small D × D matrix.
    singular_values = torch.linalg.eigvalsh(matrix.T @ matrix).clamp(min=0).sqrt()
    if singular_values.sum() == 0:
        return 1.0
    return float(torch.special.entr(singular_values / singular_values.sum()).sum().exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance between the normalized features of two views of each image.

    It is 0 if the features do not depend on the augmentation. See Wang and Isola 2020, *Understanding Contrastive
    Representation Learning*; the exponent here is 2.

    Args:
        first: features of one view of each image, float (N, D).
        second: features of a second view of each image, float (N, D).
    """
    return float((F.normalize(first.double()) - F.normalize(second.double())).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Return the logarithm of the mean of exp(−2 d²), where d is the distance between two normalized features.

    The mean is over all pairs. The result is at most 0; lower values mean that the features are spread more evenly over
    the unit sphere. See Wang and Isola 2020, with t = 2.

    Args:
        features: float (N, D) with N at least 2.
    """
    distances = torch.pdist(F.normalize(features.double()))
    return float((-2 * distances.square()).exp().mean().log())
