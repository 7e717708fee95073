"""The `claims` section: a verdict on each claim in the grid, corrected for the number of claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rr.params import ClaimConfig
from rr.report.formatting import format_difference
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.result_tables import group_by_method
from rr.report.statistics import MeanStd, mean_std
from rr.report.table import Table, make_table, numeric_columns
from rr.report.welch import welch_interval, welch_p_value
from rr.runtime.formatting import format_count
from rr.workflow.claims import ALPHA, claim_sha256, describe_data, describe_difference


class ClaimVerdict(StrEnum):
    """A verdict as the report prints it."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    INCONCLUSIVE = "inconclusive"
    UNTESTED = "untested"


_EXPLANATION = (
    "A claim holds if the confidence interval of the difference (Welch’s interval, in percentage points of accuracy) "
    "lies above the claim’s margin. It does not hold if the interval lies below the margin. Otherwise, it is "
    "inconclusive. The confidence levels are corrected for the number of tested claims with Holm’s method, so the "
    f"probability of any false verdict is at most about {100 * ALPHA:.0f}%, if the number of seeds was fixed "
    "beforehand. The record of a pretraining run contains the hashes of the claims that were in the grid when training "
    "started, so the last column shows which claims were added or changed later."
)


@dataclass(frozen=True)
class Claims:
    """The verdicts: a sentence with their counts, how they were reached, and a table with a row per claim."""

    sentence: str
    explanation: str
    table: Table


def build_claims(results: GridResults) -> Claims | None:
    """Return the section, or None if the grid has no claims."""
    if not results.claims:
        return None
    claims = [(claim, *_find_runs(results, claim)) for claim in results.claims]  # with the runs of both methods
    levels = holm_levels(
        {
            number: welch_p_value(_mean_accuracy(ours), _mean_accuracy(theirs), claim.margin)
            for number, (claim, ours, theirs) in enumerate(claims)
            if not _reason_why_untestable(ours, theirs)
        }
    )
    results_by_claim = [_test_claim(*entry, levels.get(number)) for number, entry in enumerate(claims)]
    verdicts = [verdict for verdict, _ in results_by_claim]
    counts = [f"{verdicts.count(verdict)} “{verdict}”" for verdict in ClaimVerdict if verdict in verdicts]
    numbers = numeric_columns(["Difference", "Interval"])
    return Claims(
        f"This grid contains {format_count(len(verdicts), 'claims')}: {', '.join(counts)}.",
        _EXPLANATION,
        make_table(["Claim", "Data", "Verdict", *numbers, "Stated"], [row for _, row in results_by_claim]),
    )


def _test_claim(
    claim: ClaimConfig, ours: list[EvaluationResult], theirs: list[EvaluationResult], level: float | None
) -> tuple[ClaimVerdict, list[str]]:
    """Return the verdict on a claim, and the cells of its row. `level` is None if the claim cannot be tested."""
    verdict, difference, interval = ClaimVerdict.UNTESTED, "–", "–"
    if ours and theirs:
        difference = format_difference(_mean_accuracy(ours).mean - _mean_accuracy(theirs).mean)
    if level is not None:
        low, high = welch_interval(_mean_accuracy(ours), _mean_accuracy(theirs), 1 - level)
        verdict = _decide_verdict(low, high, claim.margin)
        interval = f"{format_difference(low)} to {format_difference(high)} ({100 * (1 - level):.4g}%)"
    stated = _describe_when_stated(claim, ours, theirs)
    return verdict, [describe_difference(claim), describe_data(claim), verdict, difference, interval, stated]


def holm_levels(p_values: dict[int, float]) -> dict[int, float]:
    """Return the level at which Holm's step-down method tests each hypothesis.

    The hypotheses are tested from the smallest p-value to the largest, at the levels α/m, α/(m − 1), …, α. Once a
    hypothesis is not rejected, it and all later ones are tested at its level, and none of them is rejected.
    (Holm 1979, *A simple sequentially rejective multiple test procedure*.)
    """
    levels: dict[int, float] = {}
    level, is_rejecting = ALPHA, True
    for rank, index in enumerate(sorted(p_values, key=lambda i: p_values[i])):
        if is_rejecting:
            level = ALPHA / (len(p_values) - rank)
            is_rejecting = p_values[index] < level
        levels[index] = level
    return levels


def _decide_verdict(low: float, high: float, margin: float) -> ClaimVerdict:
    if low > margin:
        return ClaimVerdict.HOLDS
    return ClaimVerdict.DOES_NOT_HOLD if high < margin else ClaimVerdict.INCONCLUSIVE


def _find_runs(results: GridResults, claim: ClaimConfig) -> tuple[list[EvaluationResult], list[EvaluationResult]]:
    """Return the evaluations of the two methods of a claim, one per seed."""
    runs = [
        run
        for run in results.evaluations
        if (run.paths.target, run.paths.protocol) == (claim.target, claim.protocol)
        and (run.paths.pretraining.dataset, run.paths.pretraining.backbone) == (claim.dataset, claim.backbone)
    ]
    by_method = group_by_method(runs)
    return by_method.get(claim.method, []), by_method.get(claim.above, [])


def _mean_accuracy(runs: Sequence[EvaluationResult]) -> MeanStd:
    return mean_std([100 * run.metrics["accuracy"] for run in runs])


def _describe_when_stated(
    claim: ClaimConfig, ours: Sequence[EvaluationResult], theirs: Sequence[EvaluationResult]
) -> str:
    """Return whether the claim was stated before the runs started, or why it is untested."""
    if not (ours and theirs):
        return "no such runs"
    runs = [*ours, *theirs]
    late = sum(claim_sha256(claim, run.settings) not in run.pretraining.record.claims for run in runs)
    text = f"after {late} of the {len(runs)} runs had started" if late else "before training"
    reason = _reason_why_untestable(ours, theirs)
    return f"{text}; cannot be tested {reason}" if reason else text


def _reason_why_untestable(ours: Sequence[EvaluationResult], theirs: Sequence[EvaluationResult]) -> str:
    """Return why Welch's test is not possible, as the end of a sentence, or an empty string if it is possible."""
    if min(len(ours), len(theirs)) < 2:
        return "with one seed"
    # With few test images, all seeds may have the same accuracy by chance. This does not mean that they never differ.
    if not (_mean_accuracy(ours).std or _mean_accuracy(theirs).std):
        return "because all seeds of each method have the same accuracy"
    return ""
