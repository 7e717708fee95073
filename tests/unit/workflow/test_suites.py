"""Suites: the grid is written, everything else of the file stays, and what they ask for can be run."""

import textwrap
from pathlib import Path
from typing import get_args

import pytest
from helpers import ROOT, Rr

from rr import params
from rr.errors import UserError
from rr.workflow import grid, suites

NAMES = sorted(path.stem for path in (ROOT / "workflow/suites").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_changes_the_grid_and_adds_methods_only(name: str, place: Path) -> None:
    before, comments = params.load(place), place.read_text().count("#")
    suites.use(name, place)
    after = params.load(place)
    assert place.read_text().count("#") >= comments
    assert after.model_copy(update={"grid": before.grid, "methods": before.methods}) == before
    assert {key: after.methods[key] for key in before.methods} == before.methods
    assert set(after.grid[0].method) <= set(after.methods)
    assert list(grid.cells(after))
    once = place.read_bytes()
    suites.use(name, place)
    assert place.read_bytes() == once


def test_the_default_suite_is_what_the_file_comes_with(place: Path) -> None:
    before = params.load(place)
    for name in NAMES:
        suites.use(name, place)
    suites.use("quick", place)
    assert params.load(place).grid == before.grid


def test_a_variant_is_another_method_with_other_values(place: Path) -> None:
    suites.use("methods-cifar10", place)
    methods = params.load(place).methods
    for name in methods:
        if name.endswith("-short"):
            original = methods[name.removesuffix("-short")]
            assert methods[name] == original.model_copy(update={"epochs": 2})


def test_every_kind_of_method_stands_in_the_suite_of_methods(place: Path) -> None:
    suites.use("methods", place)
    chosen = params.load(place)
    kinds = {chosen.methods[name].kind for name in chosen.grid[0].method}
    models = get_args(get_args(params.Method)[0])
    every = {kind for model in models for kind in get_args(model.model_fields["kind"].annotation)}
    assert kinds == every - {"imported"}
    heads = {getattr(chosen.methods[name], "head", None) for name in chosen.grid[0].method}
    assert heads >= {"relation", "dot", "encoder-dot"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("grid: {seed: [1, 1]}", "params.yaml: grid.seed: a value stands twice"),
        ("grid: {method: [nothing]}", "grid.method: unknown 'nothing'"),
        ("grid: {}\nmethods: {new: {like: nothing}}", "suite broken, methods.new.like: no method is called 'nothing'"),
        ("grid: {}\nmethods: {new: {like: simclr, epoch: 3}}", "methods.new.epoch: unknown key"),
        ("grid: {}\nthreads: 3", "nothing else"),
        ("grid: [", "broken.yaml is not valid YAML"),
        ("- 1", "a suite has a section grid"),
        ("grid: {seed: 1}", "each key of grid has a list"),
    ],
)
def test_a_broken_suite_leaves_the_file_as_it_was(content: str, message: str, place: Path, rr: Rr) -> None:
    before = place.read_bytes()
    text = "suites:\n  broken:\n" + textwrap.indent(content, "    ")
    (place.parent / "workflow/suites/broken.yaml").write_text(text)
    outcome = rr("suite", "use", "broken")
    assert outcome.code == 2
    assert message in outcome.err
    assert place.read_bytes() == before


@pytest.mark.parametrize("content", ["suites: {other: {grid: {}}}", "grid: {}", "suites: {broken: {}}\nmore: 1", "[]"])
def test_a_file_that_holds_something_else_is_refused(content: str, place: Path, rr: Rr) -> None:
    (place.parent / "workflow/suites/broken.yaml").write_text(content)
    outcome = rr("suite", "use", "broken")
    assert outcome.code == 2
    assert "a suite's file holds suites, then broken" in outcome.err


def test_an_unknown_suite_is_named_with_the_nearest(place: Path, rr: Rr) -> None:
    for command in ("use", "show"):
        outcome = rr("suite", command, "method")
        assert outcome.code == 2
        assert "no suite is called method" in outcome.err
        assert "methods" in outcome.err


def test_suites_are_listed_and_shown(place: Path, rr: Rr) -> None:
    lines = rr("suite", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)
    assert rr("suite", "show", "cifar").out == (place.parent / "workflow/suites/cifar.yaml").read_text()


def test_several_suites_join_their_cells_and_leave_params_alone(place: Path) -> None:
    before = place.read_bytes()
    contents = {name: suites.read(name) for name in ("views", "heads", "labels")}
    joined = params.load(suites.overlay(contents, place))
    assert place.read_bytes() == before
    expected: set = set()
    for name in contents:
        suites.use(name, place)
        alone = params.load(place)
        expected |= set(grid.evaluations(alone))
        assert all(joined.methods[method] == alone.methods[method] for method in alone.grid[0].method)
        place.write_bytes(before)
    cells = list(grid.evaluations(joined))
    assert set(cells) == expected
    assert len(cells) == len(expected)  # what two suites share is there once
    assert len(list(grid.pretrainings(joined))) == len({cell.pretraining for cell in expected})


def test_suites_that_disagree_on_a_variant_are_refused(place: Path) -> None:
    one, other = suites.read("views"), suites.read("views")
    other["methods"]["relational-k2"]["epochs"] = 3
    with pytest.raises(UserError, match=r"methods\.relational-k2 differs"):
        suites.overlay({"one": one, "other": other}, place)
    assert not (place.parent / ".rr").exists()


def test_the_suites_of_the_paper_have_its_budgets(place: Path) -> None:
    """Epochs, K, M, seeds and rates as the paper's facts have them; STL-10 alone differs in epochs."""
    for name in ("cifar", "tiny-conv4", "tiny-resnet32", "slim", "stl10", "views", "labels", "heads"):
        before = place.read_bytes()
        suites.use(name, place)
        chosen = params.load(place)
        place.write_bytes(before)
        assert chosen.grid[0].seed == [1, 2, 3]
        for method in (chosen.methods[key] for key in chosen.grid[0].method):
            if method.kind == "random":
                continue
            assert method.epochs == (300 if name == "stl10" else 200)
            assert method.batch_size == (64 if method.kind == "relational" else 128)
            assert method.learning_rate == {"supervised": 0.1, "infomax": 0.0001}.get(method.kind, 0.001)
            if method.kind == "relational" and name != "views":
                assert method.views == {"tiny-resnet32": 16, "stl10": 25}.get(name, 32)
