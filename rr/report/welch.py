"""Welch's test for the difference between two means, computed from the means, standard deviations and seed counts.

Welch's test (1947) does not assume equal variances. The degrees of freedom are computed with the Welch–Satterthwaite
equation.
"""

import math

from scipy.special import stdtr, stdtrit

from rr.report.statistics import CONFIDENCE, MeanStd


def welch_interval(ours: MeanStd, theirs: MeanStd, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the confidence interval of the difference ours − theirs, in the same unit as the means.

    If both standard deviations are 0, the interval is the difference itself.

    Raises:
        ValueError: if one side is based on a single value, which has no standard deviation.
    """
    difference = ours.mean - theirs.mean
    standard_error, degrees = _standard_error_and_dof(ours, theirs)
    if standard_error == 0:
        return difference, difference
    margin = float(stdtrit(degrees, (1 + confidence) / 2)) * standard_error
    return difference - margin, difference + margin


def welch_p_value(ours: MeanStd, theirs: MeanStd, margin: float) -> float:
    """Return the two-sided p-value for the hypothesis that the difference ours − theirs is `margin`.

    The p-value is less than 1 − c if and only if the interval with confidence c does not contain the margin.

    Raises:
        ValueError: if one side is based on a single value, which has no standard deviation.
    """
    distance = abs(ours.mean - theirs.mean - margin)
    standard_error, degrees = _standard_error_and_dof(ours, theirs)
    if standard_error == 0:
        return float(distance == 0)
    return float(2 * stdtr(degrees, -distance / standard_error))


def _standard_error_and_dof(ours: MeanStd, theirs: MeanStd) -> tuple[float, float]:
    """Return the standard error of the difference of the means, and the degrees of freedom (NaN if the error is 0)."""
    if ours.std is None or theirs.std is None:
        raise ValueError(
            "Welch's interval needs at least two values per side: a single value has no standard deviation"
        )
    our_variance, their_variance = (side.std**2 / side.count for side in (ours, theirs) if side.std is not None)
    variance = our_variance + their_variance
    if variance == 0:
        return 0.0, math.nan
    degrees = variance**2 / (our_variance**2 / (ours.count - 1) + their_variance**2 / (theirs.count - 1))
    return math.sqrt(variance), degrees
