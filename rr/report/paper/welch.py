"""Do two means agree? Welch's interval of their difference, from mean, deviation and number of seeds alone."""

import math

from scipy.special import stdtrit

from rr.report.statistics import Spread

LEVEL = 0.95


def interval(ours: Spread, theirs: Spread) -> tuple[float, float]:
    """Where ours − theirs lies with a confidence of 95 %, in the unit of the means.

    Welch (1947): the variances need not be equal. The degrees of freedom are Welch and Satterthwaite's. Both sides need
    a deviation; where both are 0 the interval is the difference itself. Raises ValueError for one value alone.
    """
    if ours.deviation is None or theirs.deviation is None:
        raise ValueError("one value alone has no deviation")
    difference = ours.mean - theirs.mean
    first, second = (one**2 / n for one, n in ((ours.deviation, ours.count), (theirs.deviation, theirs.count)))
    if first + second == 0:
        return difference, difference
    freedom = (first + second) ** 2 / (first**2 / (ours.count - 1) + second**2 / (theirs.count - 1))
    margin = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(first + second)
    return difference - margin, difference + margin


def agreement(ours: Spread, theirs: Spread) -> str:
    """ "agrees" where the interval holds 0, else "above" or "below": where ours lies."""
    low, high = interval(ours, theirs)
    return "above" if low > 0 else "below" if high < 0 else "agrees"
