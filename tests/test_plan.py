"""`rr plan`: counts by hand, what is made already, and a rate that was measured."""

import shutil
from pathlib import Path

import pytest
from conftest import PRETRAIN, Rr, write_params

from rr import suites
from rr.params import load
from rr.plan import measured, plan


def lines(text: str) -> dict[str, list[str]]:
    """The table's rows by method."""
    return {line.split()[2]: line.split() for line in text.splitlines()[1:-2]}


def test_the_papers_views_by_hand(place: Path, rr: Rr) -> None:
    outcome = rr("plan", "views", "--views-per-second", "100000")
    assert outcome.code == 0, outcome.err
    rows = lines(outcome.out)
    # 50,000 pictures, 32 views, 200 epochs: the 320 million of the paper's facts; three seeds.
    assert rows["relational-k32"][3:] == ["3", "0", "320,000,000", "100,000", "2.7"]
    assert rows["relational-k2"][3:6] == ["3", "0", "20,000,000"]
    total = 3 * 3 * sum(k * 50_000 * 200 for k in (2, 4, 8, 16, 32))
    assert f"45 pretrainings, {total:,} views, {total / 1e5 / 3600:,.1f} hours one after the other" in outcome.out
    assert "45 evaluations" in outcome.out
    several = rr("plan", "views", "views", "--views-per-second", "100000", "--gpus", "4")
    assert f"on 4 devices at least {total / 1e5 / 3600 / 4:,.1f} hours" in several.out
    assert load(place).grid[0].dataset == ["shapes"]  # planning changes no parameters


def test_stl10_and_tiny_imagenet_know_their_size_before_they_are_fetched(place: Path) -> None:
    for name, method, views in (
        ("stl10", "relational-stl10", 100_000 * 25 * 300),
        ("tiny-resnet32", "relational-paper-k16", 100_000 * 16 * 200),
    ):
        chosen = load(suites.overlay({name: suites.read(name)}, place))
        assert lines(plan(chosen, lambda *_: 1e5))[method][5] == f"{views:,}"


def test_what_is_made_is_not_planned_again(converted: Path, tmp_path: Path, monkeypatch, rr: Rr) -> None:
    shutil.copytree(converted, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    assert lines(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "2,400"]
    assert rr(*PRETRAIN).code == 0
    assert lines(rr("plan", "--views-per-second", "1000").out)["relational"][3:] == ["0", "1", "0", "–", "0.0"]
    write_params(tmp_path / "project", lambda params: params["methods"]["relational"].update(epochs=5))
    assert lines(rr("plan", "--views-per-second", "1000").out)["relational"][3:6] == ["1", "0", "4,000"]


def test_pictures_of_ones_own_are_counted_when_they_are_converted(project: Path, rr: Rr) -> None:
    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "nowhere", "test_share": 0.2, "unreadable": "stop"}
        params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source}
        params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"])

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 0
    assert "not known before rr convert: mine" in outcome.out


def test_a_rate_is_measured_once_for_runs_that_are_alike(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rr.plan

    monkeypatch.setattr(rr.plan, "SECONDS", 0.05)
    params = load(project / "params.yaml")
    calls = []
    real = rr.plan._measure
    monkeypatch.setattr(rr.plan, "_measure", lambda *arguments: calls.append(1) or real(*arguments))
    rate = measured("cpu")
    text = plan(params, rate)
    speed = float(lines(text)["relational"][6].replace(",", ""))
    assert 50 < speed < 1e6
    plan(params, rate)
    assert len(calls) == 1


def test_an_unknown_suite_is_refused(place: Path, rr: Rr) -> None:
    outcome = rr("plan", "viws")
    assert outcome.code == 2
    assert "no suite is called viws" in outcome.err
