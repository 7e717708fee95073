"""Mean and standard deviation over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
