"""`rr plan`: counts by hand, what is made already, and a rate that was measured."""

import random
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest
from helpers import PRETRAIN, ROOT, Rr, write_params
from hypothesis import given
from hypothesis import strategies as st

from rr import paths, stages
from rr.params import load
from rr.pretrain import loop
from rr.workflow import suites
from rr.workflow.estimates import Schedule, schedule, traffic
from rr.workflow.plan import measured, plan


def lines(text: str) -> dict[str, list[str]]:
    """The table's rows by method."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {row[2]: row for row in rows[: next(place for place, row in enumerate(rows) if "pretrainings," in row)]}


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
    least, longest = total / 1e5 / 3600 / 4, 320e6 / 1e5 / 3600
    assert f"in any order {least:,.1f} to {least + longest * 3 / 4:,.1f}\n" in several.out
    assert f", {longest:,.1f} hours alone\n" in several.out
    assert "on 1 GPUs" not in outcome.out
    assert load(place).grid[0].dataset == ["shapes"]  # planning changes no parameters


def test_stl10_and_tiny_imagenet_know_their_size_before_they_are_fetched(place: Path) -> None:
    for name, method, views in (
        ("stl10", "relational-stl10", 100_000 * 25 * 300),
        ("tiny-resnet32", "relational-paper-k16", 100_000 * 16 * 200),
    ):
        chosen = load(suites.overlay({name: suites.read(name)}, place))
        assert lines(plan(chosen, lambda *_: 1e5))[method][5] == f"{views:,}"


def test_a_schedule_by_hand() -> None:
    # Longest first: 5 | 4 | 3, then 3 beside 3, then 3 beside 4.
    assert schedule([3.0, 5.0, 3.0, 4.0, 3.0], 3) == Schedule(7.0, 6.0, 6.0 + 5 * 2 / 3)
    assert schedule([], 2) == Schedule(0.0, 0.0, 0.0)
    assert schedule([2.0, 1.0], 1) == Schedule(3.0, 3.0, 3.0)


@given(
    st.lists(st.integers(1, 50).map(float), min_size=1, max_size=30),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_any_order_ends_between_the_bounds(durations: list[float], gpus: int, chance: random.Random) -> None:
    found = schedule(durations, gpus)
    chance.shuffle(durations)
    ends = [0.0] * gpus  # the first GPU that is free takes the next run
    for duration in durations:
        ends[ends.index(min(ends))] += duration
    assert found.least - 1e-9 <= max(ends) <= found.most + 1e-9
    assert found.least - 1e-9 <= found.longest_first <= found.most + 1e-9


def test_what_a_run_reads_and_writes(place: Path) -> None:
    params = load(suites.overlay({"cifar": suites.read("cifar"), "tiny-conv4": suites.read("tiny-conv4")}, place))
    run = paths.Pretraining("cifar10", "conv4", "simclr-paper", 1)
    found = traffic(params, run, 50_000, 10, 3600.0)
    assert found.read == 50_000 * 32 * 32 * 3  # all of it stays in memory
    assert found.written == 200 * found.state  # an epoch of 18 seconds is saved at its end alone
    assert traffic(params, run, 50_000, 10, 200 * 250.0).written == 3 * 200 * found.state
    tiny = paths.Pretraining("tiny-imagenet", "conv4", "simclr-paper", 1)
    assert traffic(params, tiny, 100_000, 200, 0.0).read == 200 * 100_000 * 64 * 64 * 3  # more than 1 GiB: streamed
    clusters = paths.Pretraining("cifar10", "conv4", "deepcluster-paper", 1)
    short, long = (traffic(params, clusters, 50_000, 10, 200 * seconds) for seconds in (18.0, 150.0))
    assert long.state == short.state + 50_000 * 8  # the labels of an epoch that is not over
    assert long.written == 200 * (short.state + long.state)


def test_a_layer_for_every_class_is_in_the_state(place: Path) -> None:
    params = load(place)
    ten, thousand = (
        traffic(params, paths.Pretraining("shapes", "conv4", "supervised", 1), 9, classes, 0.0).state
        for classes in (10, 1000)
    )
    assert thousand - ten == pytest.approx(990 * (64 + 1) * 2 * 4, abs=200)  # weights and one moment, float32


@pytest.mark.parametrize("method", ["relational", "supervised", "byol"])
def test_states_on_disk_are_as_large_as_planned(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    shutil.copytree(converted, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    write_params(tmp_path / "project", add_byol)
    params = load(Path("params.yaml"))
    sizes = []
    save = loop.save

    def keep(resume: Path, *rest: object) -> None:
        save(resume, *rest)
        sizes.append(resume.stat().st_size)

    monkeypatch.setattr(loop, "save", keep)
    stages.pretrain("shapes", "conv4", method, 1, "cpu", Path("params.yaml"))
    planned = traffic(params, paths.Pretraining("shapes", "conv4", method, 1), 200, 10, 0.0)
    assert max(sizes) == pytest.approx(planned.state, rel=0.01)
    assert sum(sizes) == pytest.approx(planned.written, rel=0.01)


def add_byol(params: dict) -> None:
    """Half of its weights have no gradient."""
    settings = {"kind": "byol", "momentum": 0.99, "hidden": 64, "outputs": 32, "epochs": 1, "views": 2}
    shared = ("augmentation", "batch_size", "learning_rate")
    params["methods"]["byol"] = settings | {key: params["methods"]["relational"][key] for key in shared}


def test_the_documents_sample_is_what_the_command_prints(place: Path, rr: Rr) -> None:
    text = (ROOT / "docs/scaling.md").read_text()
    (sample,) = re.findall(r"^\$ rr (plan .*)\n…\n((?:.+\n)+)```", text, re.MULTILINE)
    command, shown = sample[0].split(), sample[1].splitlines()
    outcome = rr(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-len(shown) :] == shown


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--gpus", "0", "Invalid value for '--gpus'"),
        ("--gpus", "1000001", "Invalid value for '--gpus'"),
        ("--gpus", "1" + "0" * 21, "Invalid value for '--gpus'"),
        *(
            ("--views-per-second", value, "give a number from 1 to 1e12")
            for value in ("0.5", "-1", "nan", "inf", "1e308")
        ),
    ],
)
def test_machines_that_nobody_has(place: Path, rr: Rr, option: str, value: str, told: str) -> None:
    outcome = rr("plan", "smoke", "--views-per-second", "1000", option, value)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_more_gpus_than_runs(place: Path, rr: Rr) -> None:
    outcome = rr("plan", "views", "--views-per-second", "100000", "--gpus", "1000000")
    assert "on 1000000 GPUs: 0.9 hours, the longest runs first" in outcome.out
    tracemalloc.start()
    schedule([1.0, 2.0], 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 1e5
    tracemalloc.stop()


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
