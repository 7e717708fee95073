"""Test the `claims` section: Holm's levels, verdicts, and whether a claim was made before training."""

from pathlib import Path
from typing import Any

import pytest
from report_files import (
    PROTOCOLS,
    change_record,
    make_params,
    normalized_rows,
    read_markdown,
    read_page,
    write_grid_files,
)
from scipy import stats

from rr.params import ClaimConfig, Params
from rr.paths import PretrainPaths
from rr.report.inputs.collect import collect_results
from rr.report.sections.claims import build_claims, holm_levels
from rr.report.stage import write_report
from rr.report.statistics import mean_confidence_interval, mean_std
from rr.report.welch import welch_interval, welch_p_value
from rr.workflow.claims import claim_sha256


def make_claim(**changes: Any) -> ClaimConfig:
    values = {
        "method": "relational", "above": "random", "dataset": "shapes", "backbone": "conv4", "target": "shapes",
        "protocol": "linear", "margin": 0.0,
    }  # fmt: skip
    return ClaimConfig(**(values | changes))


def with_claims(params: Params, *claims: ClaimConfig) -> Params:
    return params.model_copy(update={"grid": [params.grid[0].model_copy(update={"claims": list(claims)})]})


def verdicts(params: Params, *claims: ClaimConfig) -> list[str]:
    section = build_claims(collect_results(with_claims(params, *claims)))
    assert section
    return [row[2].text for row in section.table.rows]


def test_levels_of_holm_by_hand() -> None:
    # 0.005 < 0.05/4 and 0.01 < 0.05/3 are rejected. 0.03 > 0.05/2 is not, so 0.04 < 0.05 is not rejected either.
    levels = holm_levels({0: 0.01, 1: 0.04, 2: 0.03, 3: 0.005})
    assert levels == pytest.approx({3: 0.05 / 4, 0: 0.05 / 3, 2: 0.05 / 2, 1: 0.05 / 2})
    assert holm_levels({}) == {}
    assert holm_levels({5: 0.9}) == {5: 0.05}


def test_p_value_matches_scipy_and_the_interval() -> None:
    ours, theirs = [60.0, 63.0, 61.5], [58.0, 59.5, 60.5, 61.0]
    sides = mean_std(ours), mean_std(theirs)
    for margin in (0.0, 1.5, -2.0, 7.0):
        p_value = welch_p_value(*sides, margin)
        expected = stats.ttest_ind([value - margin for value in ours], theirs, equal_var=False)
        assert p_value == pytest.approx(expected.pvalue)
        low, high = welch_interval(*sides, 1 - p_value)  # the margin is one end of this interval
        assert min(abs(low - margin), abs(high - margin)) < 1e-6
    same = mean_std([1.0, 1.0]), mean_std([0.5, 0.5])
    assert [welch_p_value(*same, margin) for margin in (0.0, 0.5)] == [0, 1]


def test_interval_of_a_mean_matches_scipy() -> None:
    values = [0.1, 0.4, -0.2, 0.3]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_confidence_interval(mean_std(values)) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="at least two values"):
        mean_confidence_interval(mean_std([1.0]))


def test_verdicts(params: Params) -> None:
    # Accuracies of seeds 1 and 2 in percent. Linear: relational 60, 63; random 40, 42. kNN: relational 50, 50; random
    # 30, 30.
    knn = {"protocol": "knn"}
    assert verdicts(params, make_claim()) == ["holds"]
    assert verdicts(params, make_claim(margin=15.0)) == ["inconclusive"]
    assert verdicts(params, make_claim(margin=60.0)) == ["does not hold"]
    assert verdicts(params, make_claim(method="random", above="relational")) == ["does not hold"]
    # The standard deviations of kNN are 0, which does not mean that its accuracies are exact.
    assert verdicts(params, make_claim(**knn)) == ["untested"]
    section = build_claims(collect_results(with_claims(params, make_claim(**knn))))
    assert section
    reason = (
        "after 4 of the 4 runs had started; cannot be tested because all seeds of each method have the same accuracy"
    )
    assert section.table.rows[0][-1].text == reason
    untested = make_claim(backbone="resnet32"), make_claim(method="simclr"), make_claim(dataset="other")
    assert verdicts(params, *untested) == ["untested"] * 3


def test_more_claims_widen_the_interval(params: Params) -> None:
    claim, others = make_claim(margin=6.0), [make_claim(margin=20.0 + k / 10) for k in range(20)]
    assert verdicts(params, claim) == ["holds"]
    assert verdicts(params, claim, *others) == ["inconclusive"] * 21
    # Claims that the grid does not test do not count.
    assert verdicts(params, claim, *(make_claim(backbone="resnet32", margin=float(k)) for k in range(20)))[0] == "holds"


def test_page_shows_when_a_claim_was_stated(params: Params) -> None:
    early, late = make_claim(), make_claim(margin=1.0)
    first, second = (claim_sha256(claim, PROTOCOLS["linear"]) for claim in (early, late))
    for method in ("random", "relational"):
        for seed in (1, 2):
            claims = [first] + [second] * (seed == 2)
            change_record(PretrainPaths("shapes", "conv4", method, seed).folder, claims=claims)
    write_report(with_claims(params, early, late, make_claim(above="simclr")))
    page = read_page()
    rows = [row for row in normalized_rows(page) if row[0].startswith("relational ") and "above" in row[0]]
    assert [row[2] for row in rows] == ["holds", "holds", "untested"]
    assert rows[0][:2] == ["relational above random", "shapes, conv4 → shapes, linear"]
    assert rows[0][3] == "+20.50"
    assert rows[0][4].endswith(" (97.5%)")
    assert [row[5] for row in rows] == [
        "before training", "after 2 of the 4 runs had started", "no such runs",
    ]  # fmt: skip
    assert "This grid contains 3 claims: 2 “holds”, 1 “untested”." in page.text
    assert "| relational above random | shapes, conv4 → shapes, linear | holds | +20.50 |" in read_markdown()


def test_single_seed_is_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(seeds=(1,))
    write_grid_files(params)
    section = build_claims(collect_results(with_claims(params, make_claim())))
    assert section
    assert [cell.text for cell in section.table.rows[0]][2:] == [
        "untested", "+20.00", "–", "after 2 of the 2 runs had started; cannot be tested with one seed",
    ]  # fmt: skip
    assert build_claims(collect_results(params)) is None
