"""Claims that are stated before training: their hashes, and how many seeds they need."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import to_jsonable_python
from scipy.special import nctdtr, stdtrit

from rr.params import ClaimConfig, Params
from rr.runtime.hashing import json_sha256

ALPHA, POWER = 0.05, 0.8  # probability of a false verdict on any claim, and of confirming a true claim
_MAX_SEEDS = 1000


def grid_claims(params: Params) -> list[ClaimConfig]:
    """Return the claims in all grids, without duplicates."""
    claims: list[ClaimConfig] = []
    for grid in params.grid:
        claims += [claim for claim in grid.claims if claim not in claims]
    return claims


def claim_sha256(claim: ClaimConfig, protocol_settings: dict[str, Any]) -> str:
    """Return the hash that a pretraining record contains to show that a claim was stated before training.

    It also depends on the settings of the claim's protocol, because they determine what the claim says.
    """
    return json_sha256([claim.model_dump(mode="json"), protocol_settings])


def grid_claim_hashes(params: Params) -> list[str]:
    """Return the hash of each claim in all grids."""
    return [claim_sha256(claim, to_jsonable_python(params.protocols[claim.protocol])) for claim in grid_claims(params)]


def describe_difference(claim: ClaimConfig) -> str:
    """Return the claimed difference as text: which method is above which, and by how much."""
    margin = f"more than {claim.margin:g} points above" if claim.margin else "above"
    return f"{claim.method} {margin} {claim.above}"


def describe_data(claim: ClaimConfig) -> str:
    """Return the dataset, backbone, target and protocol of a claim as text."""
    return f"{claim.dataset}, {claim.backbone} → {claim.target}, {claim.protocol}"


def seeds_for_power(difference: float, margin: float, std: tuple[float, float], alpha: float) -> int | None:
    """Return how many seeds per method are needed to show, with 80% probability, that a difference exceeds a margin.

    The test is a two-sided Welch test at the level `alpha`. Its power is computed with the noncentral t distribution.

    Args:
        difference: the true difference.
        margin: the margin, which is smaller than the difference.
        std: each method's standard deviation over seeds; at least one is above 0.
        alpha: the level of the test.

    Returns:
        The number of seeds, at least 2, or None if more than 1,000 would be needed.
    """
    first, second = (value**2 for value in std)
    for count in range(2, _MAX_SEEDS + 1):
        degrees = (first + second) ** 2 / (first**2 + second**2) * (count - 1)
        noncentrality = (difference - margin) / ((first + second) / count) ** 0.5
        if 1 - nctdtr(degrees, noncentrality, stdtrit(degrees, 1 - alpha / 2)) >= POWER:
            return count
    return None


def describe_required_seeds(params: Params) -> Iterator[str]:
    """Yield one line per claim in the grid: how many seeds it needs, and how many the grid has.

    The level of the test is the strictest one in Holm's correction: `ALPHA` divided by the number of claims that the
    grid has runs for. (A claim with one seed counts, because it will be tested when seeds are added.)
    """
    claims = grid_claims(params)
    seeds = [min(_count_seeds(params, claim, method) for method in (claim.method, claim.above)) for claim in claims]
    num_tested = sum(map(bool, seeds))
    for claim, own_seeds in zip(claims, seeds, strict=True):
        text = f"claim: {describe_difference(claim)} ({describe_data(claim)}): "
        seeds_in_grid = f"the grid has {own_seeds}"
        assumed = claim.assumed
        if not own_seeds:
            yield f"{text}this grid does not test it"
        elif assumed is None:
            yield f"{text}{seeds_in_grid}; add `assumed` to the claim to compute how many seeds it needs"
        else:
            std = assumed.std[0], assumed.std[1]
            count = seeds_for_power(assumed.difference, claim.margin, std, ALPHA / num_tested)
            needed = f"{count} seeds" if count else f"more than {_MAX_SEEDS:,} seeds"
            yield (
                f"{text}needs {needed} for a power of {100 * POWER:.0f}% if the difference is "
                f"{assumed.difference:g} points and the standard deviations over seeds are {std[0]:g} and {std[1]:g} "
                f"({assumed.source}); {seeds_in_grid}"
            )


def _count_seeds(params: Params, claim: ClaimConfig, method: str) -> int:
    """Return the number of seeds for which the grid evaluates `method` with the data and backbone of a claim."""
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
