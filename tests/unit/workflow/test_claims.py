"""Claims of a grid: validation, required seeds and hashes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import PRETRAIN, RunRr, interrupt_at, pretrain_command, write_params

from rr import params, paths
from rr.params import ClaimConfig
from rr.workflow import suites
from rr.workflow.claims import grid_claim_hashes, grid_claims, seeds_for_power
from rr.workflow.records import load_record

CLAIM = {
    "method": "relational", "above": "random", "dataset": "shapes", "backbone": "conv4", "target": "shapes",
    "protocol": "knn", "margin": 1.0,
}  # fmt: skip
ASSUMED = {"difference": 3.0, "std": [1.0, 2.0], "source": "a pilot study"}


def add_claims(*claims: dict) -> Callable[[dict], None]:
    return lambda content: content["grid"].update(claims=[*claims])


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_required_seeds_match_published_tables(effect: float, seeds: int) -> None:
    """Cohen (1992, A power primer) gives 64 and 26 per group at the level 0.05; the others are from G*Power."""
    assert seeds_for_power(effect, 0, (1, 1), 0.05) == seeds
    assert seeds_for_power(10 * effect + 4, 4, (10, 10), 0.05) == seeds  # only the ratio counts
    assert seeds_for_power(effect, 0, (1, 1), 0.01) > seeds


def test_required_seeds_by_hand() -> None:
    """A simulation of 10⁵ experiments gives a power of 0.795 for 15 seeds at the level 0.05 / 3, and 0.827 for 16."""
    assert seeds_for_power(3, 1, (1, 2), 0.05 / 3) == 16


def test_required_seeds_at_the_limits() -> None:
    assert seeds_for_power(0.001, 0, (1, 1), 0.05) is None
    assert seeds_for_power(1, 0, (2, 0), 0.05) == seeds_for_power(1, 0, (0, 2), 0.05)


def test_plan_lists_the_seeds_that_a_claim_needs(project: Path, rr: RunRr) -> None:
    other = CLAIM | {"backbone": "resnet32"}
    write_params(project, add_claims(CLAIM | {"assumed": ASSUMED}, CLAIM, other))
    outcome = rr("plan", "--views-per-second", 1000)
    lines = [line for line in outcome.out.splitlines() if line.startswith("claim: ")]
    start = "claim: relational more than 1 points above random (shapes, conv4 → shapes, knn): "
    assert lines == [  # the grid tests two of the three claims
        f"{start}needs 14 seeds for a power of 80% if the difference is 3 points and the standard deviations over "
        "seeds are 1 and 2 (a pilot study); the grid has 1",
        f"{start}the grid has 1; add `assumed` to the claim to compute how many seeds it needs",
        f"{start.replace('conv4', 'resnet32')}this grid does not test it",
    ]
    write_params(project)
    assert "claim" not in rr("plan", "--views-per-second", 1000).out


def test_plan_counts_the_seeds_of_the_method_with_fewer(project: Path, rr: RunRr) -> None:
    def change(content: dict) -> None:
        grid = content["grid"]
        content["grid"] = [
            grid | {"method": ["relational"], "seed": [1, 2, 3], "claims": [CLAIM]},
            grid | {"method": ["random"], "seed": [1, 2]},
        ]

    write_params(project, change)
    assert "the grid has 2; add `assumed`" in rr("plan", "--views-per-second", 1000).out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "relation"}, "grid.claims.0.method: unknown 'relation'; did you mean 'relational'?"),
        ({"above": "nothing"}, "grid.claims.0.above: unknown 'nothing'"),
        ({"above": "relational"}, "method and above are both 'relational'; a claim compares two methods"),
        (
            {"protocol": "retrieval"},
            "'retrieval' does not measure accuracy; use a protocol of the kind linear",
        ),
        ({"assumed": ASSUMED | {"difference": 1.0}}, "assumed.difference must exceed margin (1), got 1"),
        ({"assumed": ASSUMED | {"std": [1.0]}}, "grid.claims.0.assumed.std"),
        ({"assumed": ASSUMED | {"std": [0.0, 0.0]}}, "assumed.std must not be 0 for both methods"),
        ({"margins": 1.0}, "grid.claims.0.margins: unknown key"),
    ],
)
def test_invalid_claim_raises(project: Path, rr: RunRr, changes: dict, message: str) -> None:
    write_params(project, add_claims(CLAIM | changes))
    outcome = rr("plan", "--views-per-second", 1000)
    assert outcome.code == 2
    assert message in outcome.err


def test_hash_depends_on_every_key(project: Path) -> None:
    changes: list[dict] = [
        {}, {"method": "supervised"}, {"above": "supervised"}, {"dataset": "other"}, {"backbone": "resnet32"},
        {"target": "other"}, {"protocol": "linear"}, {"margin": 2.0}, {"assumed": ASSUMED},
    ]  # fmt: skip
    assert {key for change in changes for key in change} == ClaimConfig.model_fields.keys()

    def add_dataset_and_claims(content: dict) -> None:
        content["datasets"]["other"] = content["datasets"]["shapes"]
        add_claims(*(CLAIM | change for change in changes))(content)

    write_params(project, add_dataset_and_claims)
    assert len(set(grid_claim_hashes(params.load_params(project / "params.yaml")))) == len(changes)


def test_hash_depends_on_the_settings_of_the_protocol(project: Path) -> None:
    """The settings of other protocols do not matter."""
    hashes = []
    for protocol, key in ((None, ""), ("retrieval", "cutoffs"), ("knn", "neighbors")):

        def change(contents: dict, protocol: str | None = protocol, key: str = key) -> None:
            add_claims(CLAIM)(contents)
            if protocol:
                contents["protocols"][protocol][key] = [1, 2] if key == "cutoffs" else 7

        write_params(project, change)
        hashes += grid_claim_hashes(params.load_params(project / "params.yaml"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_record_of_a_training_has_the_claims_of_its_start(project_copy: Path, rr: RunRr) -> None:
    """Adding a claim later does not make the run out of date, but the claim is not in the run's record."""
    write_params(Path(), add_claims(CLAIM))
    hashes = grid_claim_hashes(params.load_params(Path("params.yaml")))
    run = paths.PretrainPaths("shapes", "conv4", "random", 1)
    assert rr(*pretrain_command("random")).code == 0
    assert load_record(run.folder)["claims"] == hashes
    write_params(Path(), add_claims(CLAIM, CLAIM | {"margin": 2.0}))
    assert "runs/pretrain/shapes/conv4/random" not in rr("verify").err


def test_interrupted_training_keeps_the_claims_of_its_start(
    project_copy: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    """A claim that is added while the run is interrupted is not in the record: the history could be read by then."""
    from rr.pretrain import loop

    def load_as_if_it_took_long(*arguments: Any) -> loop.TrainState:
        state = load(*arguments)
        state.sessions[0]["seconds"] = 5000.0
        return state

    load = loop.load_checkpoint
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, 0)
        assert rr(*PRETRAIN).code == 130
    monkeypatch.setattr(loop, "load_checkpoint", load_as_if_it_took_long)
    write_params(Path(), add_claims(CLAIM))
    outcome = rr(*PRETRAIN)
    assert "continuing in epoch 2" in outcome.err
    record = load_record(paths.PretrainPaths("shapes", "conv4", "relational", 1).folder)
    assert record["claims"] == []
    (earlier,) = record["earlier_sessions"]
    assert record["started"] == earlier["started"] <= record["ended"]
    assert 5000 < record["seconds"] < 5600
    assert {key: earlier[key] for key in ("device", "processes", "machine")} == {
        key: record[key] for key in ("device", "processes", "machine")
    }


def test_suite_replaces_the_claims_of_the_former_suite(params_file: Path) -> None:
    suites.use_suite("cifar", params_file)
    assert len(grid_claims(params.load_params(params_file))) == 7
    suites.use_suite("heads", params_file)
    assert len(grid_claims(params.load_params(params_file))) == 4
    suites.use_suite("quick", params_file)
    assert grid_claims(params.load_params(params_file)) == []
    merged = suites.merge_suites({name: suites.load_suite(name) for name in ("cifar", "heads")}, params_file)
    assert len(grid_claims(params.load_params(merged))) == 11


def test_claims_of_the_paper_assume_its_results(params_file: Path) -> None:
    """The assumed differences and standard deviations are those in the paper's tables, and the suites test them."""
    from rr.report.paper.published import load_published

    for name in ("cifar", "tiny-conv4", "tiny-resnet32", "slim", "stl10", "heads"):
        suites.use_suite(name, params_file)
        loaded = params.load_params(params_file)
        for claim in grid_claims(loaded):
            kinds = [method.partition("-paper")[0].removesuffix("-stl10") for method in (claim.method, claim.above)]
            tables = {"head ablation of the paper": "Heads"}
            assert claim.assumed
            table = tables.get(claim.assumed.source, claim.assumed.source.removesuffix(" of the paper"))
            ours, theirs = (
                next(
                    result
                    for result in load_published()
                    if (result.table, result.method, result.backbone, result.dataset, result.target)
                    == (table, kind, claim.backbone, claim.dataset, claim.target)
                )
                for kind in kinds
            )
            assert ours.mean is not None
            assert theirs.mean is not None
            assert claim.assumed.difference == pytest.approx(ours.mean - theirs.mean)
            assert claim.assumed.std == [ours.std, theirs.std]
            grid = loaded.grid[0]
            assert {claim.method, claim.above} <= {*grid.method}
            assert claim.dataset in grid.dataset
            assert claim.target in grid.target
