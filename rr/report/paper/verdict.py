"""Judge whether our result agrees with the paper's, or explain why the two cannot be compared."""

from collections.abc import Collection, Iterable
from enum import StrEnum

from rr.report.paper.match import Match
from rr.report.paper.published import PublishedResult
from rr.report.statistics import CONFIDENCE, MeanStd
from rr.report.welch import welch_interval
from rr.runtime.formatting import format_count


class Verdict(StrEnum):
    """A verdict as the report prints it."""

    AGREES = "agrees"
    ABOVE = "above"
    BELOW = "below"
    REDUCED_BUDGET = "reduced budget"
    OTHER_SETTINGS = "other settings"
    TOO_FEW_SEEDS = "too few seeds"
    NOT_CONFIRMED = "not confirmed"
    NOT_RECOVERED = "not recovered"
    NOT_GIVEN = "not given"
    NOT_RUN = "not run"


MEANINGS = {
    Verdict.AGREES: (
        "the 95% confidence interval of the difference (Welch’s, for unequal variances) contains 0. This does not "
        "mean that the results are the same: with few seeds, the interval is wide."
    ),
    Verdict.ABOVE: "our result is higher, and the interval does not contain 0.",
    Verdict.BELOW: "our result is lower, and the interval does not contain 0.",
    Verdict.REDUCED_BUDGET: "our runs used fewer epochs or views than the paper’s, so the results are not compared.",
    Verdict.OTHER_SETTINGS: (
        "our runs used settings that differ from the paper’s, or some of the paper’s settings are unknown, so the "
        "results are not compared."
    ),
    Verdict.TOO_FEW_SEEDS: "our result is from a single seed, so there is no confidence interval.",
    Verdict.NOT_CONFIRMED: "the paper’s value is not confirmed, or its standard deviation is unknown.",
    Verdict.NOT_RECOVERED: "the paper’s value could not be recovered.",
    Verdict.NOT_GIVEN: "the paper does not report a value.",
    Verdict.NOT_RUN: "this grid has no corresponding run.",
}


# The verdicts that compare two results.
COMPARED = (Verdict.AGREES, Verdict.ABOVE, Verdict.BELOW)


def decide_verdict(published: PublishedResult, match: Match | None) -> Verdict:
    """Return the verdict on our result that corresponds to a result in the paper."""
    if match is None:
        return Verdict.NOT_RUN
    if published.status == "not given":
        return Verdict.NOT_GIVEN
    if published.mean is None:
        return Verdict.NOT_RECOVERED
    if match.has_reduced_budget:
        return Verdict.REDUCED_BUDGET
    if match.deviations:
        return Verdict.OTHER_SETTINGS
    if match.value.count < 2:
        return Verdict.TOO_FEW_SEEDS
    if published.std is None or published.status != "confirmed":
        return Verdict.NOT_CONFIRMED
    low, high = welch_interval(match.value, MeanStd(published.mean, published.std, published.num_seeds))
    return Verdict.ABOVE if low > 0 else Verdict.BELOW if high < 0 else Verdict.AGREES


def explain_verdicts(verdicts: Collection[Verdict]) -> dict[str, str]:
    """Return the meaning of each verdict in `verdicts`, in the order in which the verdicts are defined."""
    return {str(verdict): meaning for verdict, meaning in MEANINGS.items() if verdict in verdicts}


def describe_chance_differences(verdicts: Iterable[Verdict]) -> str:
    """Return a sentence that says how many results were compared, and how many would differ purely by chance.

    The sentence is empty if no results were compared.
    """
    count = sum(verdict in COMPARED for verdict in verdicts)
    if not count:
        return ""
    verb, risk = "was" if count == 1 else "were", 1 - CONFIDENCE
    return (
        f"{format_count(count, 'results')} {verb} compared using a confidence interval. If all our results truly "
        f"agreed with the paper’s, about {100 * risk:.0f}% of the compared results (on average {count * risk:.2g}) "
        "would still be “above” or “below” by chance."
    )
