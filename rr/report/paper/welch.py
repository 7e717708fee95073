"""Welch's confidence interval of the difference of two means, from means, standard deviations and numbers of seeds."""

import math

from scipy.special import stdtrit

from rr.report.statistics import MeanStd

CONFIDENCE = 0.95


def welch_interval(ours: MeanStd, theirs: MeanStd) -> tuple[float, float]:
    """Return the 95 % confidence interval of the difference ours − theirs, in the unit of the means.

    Welch (1947) does not assume equal variances. The degrees of freedom follow Welch and Satterthwaite. If both
    standard deviations are 0, the interval is the difference itself.

    Raises:
        ValueError: if one side is a single value, which has no standard deviation.
    """
    if ours.std is None or theirs.std is None:
        raise ValueError("Welch's interval needs at least two values per side: a single one has no standard deviation")
    difference = ours.mean - theirs.mean
    our_variance, their_variance = (side.std**2 / side.count for side in (ours, theirs) if side.std is not None)
    variance = our_variance + their_variance
    if variance == 0:
        return difference, difference
    degrees = variance**2 / (our_variance**2 / (ours.count - 1) + their_variance**2 / (theirs.count - 1))
    margin = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return difference - margin, difference + margin
