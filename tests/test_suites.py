"""Suites: the grid is written, everything else of the file stays, and what they ask for can be run."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
from conftest import ROOT, Rr

from rr import grid, params, suites

NAMES = sorted(path.stem for path in (ROOT / "workflow/suites").glob("*.yaml"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow/suites", tmp_path / "workflow/suites")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_changes_the_grid_and_adds_methods_only(name: str, place: Path) -> None:
    before, comments = params.load(place), place.read_text().count("#")
    suites.choose(name, place)
    after = params.load(place)
    assert place.read_text().count("#") >= comments
    assert after.model_copy(update={"grid": before.grid, "methods": before.methods}) == before
    assert {key: after.methods[key] for key in before.methods} == before.methods
    assert set(after.grid.method) <= set(after.methods)
    assert list(grid.cells(after))
    once = place.read_bytes()
    suites.choose(name, place)
    assert place.read_bytes() == once


def test_the_default_suite_is_what_the_file_comes_with(place: Path) -> None:
    before = params.load(place)
    for name in NAMES:
        suites.choose(name, place)
    suites.choose("default", place)
    assert params.load(place).grid == before.grid


def test_a_variant_is_another_method_with_other_values(place: Path) -> None:
    suites.choose("methods-cifar10", place)
    methods = params.load(place).methods
    for name in methods:
        if name.endswith("-short"):
            original = methods[name.removesuffix("-short")]
            assert methods[name] == original.model_copy(update={"epochs": 2})


def test_every_kind_of_method_stands_in_the_suite_of_methods(place: Path) -> None:
    suites.choose("methods", place)
    chosen = params.load(place)
    kinds = {chosen.methods[name].kind for name in chosen.grid.method}
    models = get_args(get_args(params.Method)[0])
    every = {kind for model in models for kind in get_args(model.model_fields["kind"].annotation)}
    assert kinds == every - {"imported"}
    heads = {getattr(chosen.methods[name], "head", None) for name in chosen.grid.method}
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
    ],
)
def test_a_broken_suite_leaves_the_file_as_it_was(content: str, message: str, place: Path, rr: Rr) -> None:
    before = place.read_bytes()
    (place.parent / "workflow/suites/broken.yaml").write_text(content)
    outcome = rr("suite", "broken")
    assert outcome.code == 2
    assert message in outcome.err
    assert place.read_bytes() == before


def test_an_unknown_suite_is_named_with_the_nearest(place: Path, rr: Rr) -> None:
    outcome = rr("suite", "method")
    assert outcome.code == 2
    assert "no suite is called method" in outcome.err
    assert "methods" in outcome.err
