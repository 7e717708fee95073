"""Claims that are stated before the training: their hashes, and how many seeds they need."""

from collections.abc import Iterator

from scipy.special import nctdtr, stdtrit

from rr.params import ClaimConfig, Params
from rr.runtime.hashing import json_sha256

ALPHA, POWER = 0.05, 0.8  # probability of a false verdict on any claim, and of the verdict on a true claim
_MAX_SEEDS = 1000


def grid_claims(params: Params) -> list[ClaimConfig]:
    """Return the claims of all grids, without duplicates."""
    claims: list[ClaimConfig] = []
    for grid in params.grid:
        claims += [claim for claim in grid.claims if claim not in claims]
    return claims


def claim_sha256(claim: ClaimConfig) -> str:
    """Return the hash by which the record of a pretraining run shows that a claim was stated before the training."""
    return json_sha256(claim.model_dump(mode="json"))


def describe_difference(claim: ClaimConfig) -> str:
    """Return which method is claimed to be above which other one."""
    margin = f"more than {claim.margin:g} points above" if claim.margin else "above"
    return f"{claim.method} {margin} {claim.above}"


def describe_data(claim: ClaimConfig) -> str:
    """Return the dataset, backbone, target and protocol of a claim."""
    return f"{claim.dataset}, {claim.backbone} → {claim.target}, {claim.protocol}"


def seeds_for_power(difference: float, margin: float, std: tuple[float, float], alpha: float) -> int | None:
    """Return how many seeds of each method show with a probability of 80 % that a difference exceeds a margin.

    The test is Welch's, two-sided, with the probability `alpha` of a false result. Its power follows from the
    noncentral t distribution.

    Args:
        difference: the true difference.
        margin: the margin, which is smaller.
        std: standard deviation over seeds of each method.
        alpha: the level of the test.

    Returns:
        The number, at least 2, or None if more than 1,000 would be needed.
    """
    first, second = (value**2 for value in std)
    if first + second == 0:
        return 2
    for count in range(2, _MAX_SEEDS + 1):
        degrees = (first + second) ** 2 / (first**2 + second**2) * (count - 1)
        noncentrality = (difference - margin) / ((first + second) / count) ** 0.5
        if 1 - nctdtr(degrees, noncentrality, stdtrit(degrees, 1 - alpha / 2)) >= POWER:
            return count
    return None


def describe_required_seeds(params: Params) -> Iterator[str]:
    """Yield a line for each claim of the grid: the seeds that it needs, and those that the grid has.

    The level of the test is that of the most difficult case of Holm's correction, which divides it by the number of
    claims.
    """
    claims = grid_claims(params)
    for claim in claims:
        text = f"claim: {describe_difference(claim)} ({describe_data(claim)}): "
        own_seeds = [_count_seeds(params, claim, method) for method in (claim.method, claim.above)]
        has = f"the grid has {min(own_seeds)}"
        assumed = claim.assumed
        if not min(own_seeds):
            yield f"{text}this grid does not test it"
        elif assumed is None:
            yield f"{text}{has}; add `assumed` to the claim to compute how many seeds it needs"
        else:
            std = assumed.std[0], assumed.std[1]
            count = seeds_for_power(assumed.difference, claim.margin, std, ALPHA / len(claims))
            needed = f"{count} seeds" if count else f"more than {_MAX_SEEDS:,} seeds"
            yield (
                f"{text}needs {needed} for a power of {100 * POWER:.0f} % if the difference is "
                f"{assumed.difference:g} points and seeds vary by {std[0]:g} and {std[1]:g} points ({assumed.source}); "
                f"{has}"
            )


def _count_seeds(params: Params, claim: ClaimConfig, method: str) -> int:
    """Return for how many seeds the grid evaluates one of the methods of a claim as the claim says."""
    seeds = {
        seed
        for grid in params.grid
        if claim.dataset in grid.dataset
        and claim.backbone in grid.backbone
        and method in grid.method
        and claim.target in grid.target
        and claim.protocol in grid.protocol
        for seed in grid.seed
    }
    return len(seeds)
