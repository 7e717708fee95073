"""Mean and standard deviation over seeds, and confidence intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation of `count` values. `std` is None for a single value."""

    mean: float
    std: float | None
    count: int


def mean_std(values: Sequence[float]) -> MeanStd:
    """Return the mean and the sample standard deviation of one or more values."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.fmean(values), std, len(values))


def mean_confidence_interval(value: MeanStd) -> tuple[float, float]:
    """Return the 95% confidence interval for a mean, from Student's t distribution.

    Raises:
        ValueError: if `value` is based on a single value, which has no standard deviation.
    """
    if value.std is None:
        raise ValueError("a confidence interval needs at least two values")
    margin = float(stdtrit(value.count - 1, (1 + CONFIDENCE) / 2)) * value.std / math.sqrt(value.count)
    return value.mean - margin, value.mean + margin


def accuracy_confidence_interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """Return the 95% confidence interval (Wilson) for an accuracy, a fraction measured on `num_images` test images.

    It accounts only for the random choice of the test images.
    """
    from scipy.stats import binomtest  # takes half a second to import

    interval = binomtest(round(accuracy * num_images), num_images).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)
