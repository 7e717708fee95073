"""Tests for suites: a suite changes only the grid and the methods of params.yaml, and the result is valid."""

import re
import textwrap
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest
from helpers import ROOT, RunRr
from own_images import save_tree

from rr import commands, params
from rr.errors import UserError
from rr.runtime.lock import exclusive_lock
from rr.workflow import grid, stage_runs, suites
from rr.workflow.params_file import dump_yaml, make_yaml, set_axis

NAMES = sorted(path.stem for path in (ROOT / "workflow/suites").glob("*.yaml"))
_AXES = "data: [shapes], dataset: [shapes], backbone: [conv4], method: [random], seed: [1], target: [], protocol: []"
GRID = f"grid: {{{_AXES}}}"


@pytest.mark.parametrize("name", NAMES)
def test_use_changes_only_the_grid_and_adds_methods(name: str, params_file: Path) -> None:
    before, comments = params.load_params(params_file), params_file.read_text().count("#")
    suites.use_suite(name, params_file)
    after = params.load_params(params_file)
    assert params_file.read_text().count("#") >= comments
    assert after.model_copy(update={"grid": before.grid, "methods": before.methods}) == before
    assert {key: after.methods[key] for key in before.methods} == before.methods
    merged = suites.merge_suites({name: suites.load_suite(name)}, params_file)  # what Snakemake uses
    assert after.grid == params.load_params(merged).grid
    assert list(stage_runs.iter_stage_runs(after))
    once = params_file.read_bytes()
    suites.use_suite(name, params_file)
    assert params_file.read_bytes() == once


@pytest.mark.parametrize(
    ("axis", "comment_is_kept"),
    [
        ("target: [shapes] # why", True),
        ("target: [] # why", True),
        ("target: # why\n  - shapes\n  - digits", False),
        ("target:\n  # first\n  - shapes", False),
        ("target: &name [shapes] # why", True),
    ],
)
def test_axis_is_replaced_in_every_style(axis: str, comment_is_kept: bool) -> None:
    other = "*name" if "&name" in axis else "[shapes]"
    text = f"grid:\n  # above\n  {axis}\n  data: {other}\n\nthreads: 2 # below\n"
    for values in (["a"], [], ["b", "c"], [], ["d"]):
        yaml = make_yaml()
        content = yaml.load(text)
        set_axis(content["grid"], "target", values)
        text = dump_yaml(yaml, content)
        loaded = make_yaml().load(text)
        assert loaded == {"grid": {"target": values, "data": ["shapes"]}, "threads": 2}
        assert "# above" in text
        assert "# below" in text
    assert ("# why" in text) == comment_is_kept


def test_link_permissions_and_line_endings_of_the_file_are_kept(params_file: Path, tmp_path: Path) -> None:
    content = params_file.read_bytes()
    target = tmp_path / "private.yaml"
    target.write_bytes(content.replace(b"\n", b"\r\n"))
    target.chmod(0o600)
    params_file.unlink()
    params_file.symlink_to(target)
    suites.use_suite("views", params_file)
    assert params_file.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    lines = target.read_bytes().split(b"\n")
    assert all(line.endswith(b"\r") for line in lines[:-1])
    target.write_bytes(content)
    suites.use_suite("views", params_file)
    assert target.read_bytes() == b"\n".join(line.removesuffix(b"\r") for line in lines)


def test_file_with_several_grids_is_refused(params_file: Path, rr: RunRr) -> None:
    merged = suites.merge_suites({name: suites.load_suite(name) for name in ("views", "heads")}, params_file)
    (params_file.parent / "images").mkdir()
    for command in (("suite", "use", "views"), ("init", "images")):
        outcome = rr(*command, "--params", merged)
        assert outcome.code == 2
        assert "grid is a list of grids, which only Snakemake supports: keep only one of them, as a" in outcome.err


@pytest.mark.parametrize("command", [("suite", "use", "quick"), ("init", "images"), ("init",)])
def test_command_waits_until_another_process_has_edited_the_file(
    params_file: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    save_tree(Path("images"), {"a": 10, "b": 10})
    monkeypatch.setattr(commands, "check_can_create_project", lambda folder: None)
    monkeypatch.setattr(commands, "create_project", lambda folder: (True, []))
    codes: list[int] = []
    codes_before_the_edit = []
    with ExitStack() as stack:
        stack.enter_context(exclusive_lock(Path("params.yaml")))

        def edit_and_release() -> None:
            codes_before_the_edit.extend(codes)
            params_file.write_text(re.sub("threads: [0-9]+", "threads: 3", params_file.read_text()))
            stack.close()

        timer = threading.Timer(2, edit_and_release)
        timer.start()
        codes.append(rr(*command).code)
        timer.join()
    assert (codes, codes_before_the_edit) == ([0], [])
    assert params.load_params(params_file).threads == 3


def test_merge_of_a_suite_whose_name_is_a_number_raises(params_file: Path) -> None:
    with pytest.raises(UserError, match="suites: the name 7 is not text: put it in quotes in the suite file"):
        suites.merge_suites({7: {}}, params_file)  # type: ignore[dict-item]


def test_suite_files_are_read_as_yaml_1_2(params_file: Path) -> None:
    grid = "{data: [shapes], dataset: [shapes], backbone: [conv4], method: [on], seed: [010], target: [], protocol: []}"
    mine = Path("mine.yaml")
    mine.write_text(f"suites: {{mine: {{grid: {grid}, methods: {{on: {{base: relational, learning_rate: 1e-4}}}}}}}}")
    merged = params.load_params(suites.merge_suites(suites.read_suite_files([mine, mine]), params_file))
    assert (merged.grid[0].seed, merged.grid[0].method, merged.methods["on"].learning_rate) == ([10], ["on"], 1e-4)
    mine.write_text(mine.read_text().replace("1e-4", "-1"))
    with pytest.raises(UserError, match=r"^suite mine: methods\.on\.learning_rate"):
        suites.merge_suites(suites.read_suite_files([mine]), params_file)


def test_parameter_file_in_place_of_a_suite_raises(params_file: Path) -> None:
    with pytest.raises(UserError, match="Snakemake always uses this file: specify only suites"):
        suites.read_suite_files([params_file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suites: cifar", "other.yaml, suites: must be a mapping from names to suites, got 'cifar'"),
        ("suites: {}\nthreads: 3", "other.yaml: the file must contain only the key 'suites', got suites, threads"),
        ("suites: {one: 1}\nsuites: {two: 2}", "other.yaml is not valid YAML: .*duplicate"),
        ("suites: {mine: {}}", "other.yaml: another file also contains a suite named mine: rename one of them"),
    ],
)
def test_invalid_suite_file_raises(tmp_path: Path, text: str, message: str) -> None:
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    mine.write_text("suites: {mine: {}}")
    other.write_text(text)
    with pytest.raises(UserError, match=message):
        suites.read_suite_files([mine, other])


@pytest.mark.slow
def test_quick_is_the_default_grid(params_file: Path) -> None:
    before = params.load_params(params_file)
    for name in NAMES:
        suites.use_suite(name, params_file)
    suites.use_suite("quick", params_file)
    assert params.load_params(params_file).grid == before.grid


def test_variant_is_its_base_with_other_values(params_file: Path) -> None:
    suites.use_suite("methods-cifar10", params_file)
    methods = params.load_params(params_file).methods
    for name in methods:
        if name.endswith("-short"):
            original = methods[name.removesuffix("-short")]
            assert methods[name] == original.model_copy(update={"epochs": 2})


def test_replaced_methods_and_removed_claims_are_reported(params_file: Path) -> None:
    suites.use_suite("heads", params_file)
    variant = next(iter(suites.load_suite("methods-cifar10")["methods"]))
    assert "\n" not in suites.use_suite("heads", params_file)
    yaml = make_yaml()
    content = yaml.load(params_file.read_text())
    content["methods"][variant] = {**content["methods"]["relational"], "views": 3}
    params_file.write_text(dump_yaml(yaml, content))
    assert suites.use_suite("methods-cifar10", params_file).splitlines()[1:] == [
        f"replaced, because the suite defines them differently: {variant}",
        "the previous grid, which trained on cifar10, cifar100, was replaced",
        "removed from the grid: 4 claims",
    ]


def test_suite_methods_has_every_kind_of_method(params_file: Path) -> None:
    suites.use_suite("methods", params_file)
    loaded = params.load_params(params_file)
    kinds = {loaded.methods[name].kind for name in loaded.grid[0].method}
    models = get_args(get_args(params.MethodConfig)[0])
    all_kinds = {kind for model in models for kind in get_args(model.model_fields["kind"].annotation)}
    assert kinds == all_kinds - {"imported"}
    heads = {getattr(loaded.methods[name], "head", None) for name in loaded.grid[0].method}
    assert heads >= {"relation", "dot", "encoder-dot"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GRID.replace("seed: [1]", "seed: [1, 1]"),
            "suites/broken.yaml: grid.seed: duplicate value 1; remove one",
        ),
        (GRID.replace("method: [random]", "method: [nothing]"), "grid.method: unknown 'nothing'"),
        (
            f"{GRID}\nmethods: {{new: {{base: nothing}}}}",
            "suite broken, methods.new.base: unknown method 'nothing': set base to a method in params.yaml; known: ",
        ),
        (
            f"{GRID}\nmethods: {{new: {{like: simclr}}}}",
            "suite broken, methods.new.like: this key is now called 'base'",
        ),
        (f"{GRID}\nmethods: {{new: {{base: simclr, epoch: 3}}}}", "methods.new.epoch: unknown key"),
        (
            "grid: {}\nthreads: 3",
            "have a 'grid' section and may have 'methods', but no other sections, got grid, threads: ",
        ),
        ("grid: [", "broken.yaml is not valid YAML"),
        ("- 1", "a suite must have a 'grid' section and may have 'methods', but no other sections, got [1]: add"),
        (
            f"{GRID}\nmethods: {{new: {{epochs: 3}}}}",
            "suite broken, methods.new.base: no method is specified: set base to a method in params.yaml; known: ",
        ),
        ("grid: {}\nmethods: [3]", "broken.yaml, methods: must be a mapping from names to methods, such as wide: {"),
        ("grid: {}\nmethods: {new: 3}", "broken.yaml, methods.new: must be a mapping whose 'base' is the name of a me"),
        ("grid: {}\nmethods: {new: {base: 3}}", "such as {base: relational, views: 8}, got {'base': 3}"),
        ("grid: [1]", "broken.yaml, grid: must be a mapping from axes to lists, such as seed: [1, 2], got [1]"),
        ("grid: {data: [a], seed: 1}", "broken.yaml, grid.seed: must be a list, such as seed: [1, 2], got 1"),
        ("grid: {method: [random], seed: [1]}", "lacks data, dataset, backbone, target, protocol"),
    ],
)
def test_invalid_suite_leaves_the_file_unchanged(content: str, message: str, params_file: Path, rr: RunRr) -> None:
    before = params_file.read_bytes()
    text = "suites:\n  broken:\n" + textwrap.indent(content, "    ")
    (params_file.parent / "workflow/suites/broken.yaml").write_text(text)
    outcome = rr("suite", "use", "broken")
    assert outcome.code == 2
    assert message in outcome.err
    assert params_file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "suites: {other: {grid: {}}}",
            ", suites: must contain only the key 'broken', the name of the file, got other: ",
        ),
        (
            "suites: {a: {}, broken: {}}",
            ", suites: must contain only the key 'broken', the name of the file, got a, bro",
        ),
        ("suites:", ", suites: must be a mapping from names to suites, got nothing"),
        ("# A comment", ": the file must contain only the key 'suites', got nothing: put the suite under this key"),
        ("grid: {}", ": the file must contain only the key 'suites', got grid: put the suite under this key, and"),
        ("suites: {broken: {}}\nmore: 1", ": the file must contain only the key 'suites', got suites, more: put"),
        ("[]", ": the file must contain only the key 'suites', got []: put"),
    ],
)
def test_file_that_is_not_a_suite_raises(content: str, message: str, params_file: Path, rr: RunRr) -> None:
    (params_file.parent / "workflow/suites/broken.yaml").write_text(content)
    outcome = rr("suite", "use", "broken")
    assert outcome.code == 2
    assert f"workflow/suites/broken.yaml{message}" in outcome.err


def test_unknown_suite_raises_with_a_suggestion(params_file: Path, rr: RunRr) -> None:
    for command in ("use", "show"):
        outcome = rr("suite", command, "method")
        assert outcome.code == 2
        assert "unknown suite 'method'" in outcome.err
        assert "methods" in outcome.err


def test_list_names_suites_that_cannot_be_read(params_file: Path, rr: RunRr) -> None:
    Path("workflow/suites/broken.yaml").mkdir()
    Path("workflow/suites/latin.yaml").write_bytes(b"# caf\xe9")
    lines = rr("suite", "list").out.splitlines()
    assert "broken               cannot be read ([Errno 21] Is a directory: 'workflow/suites/broken.yaml')" in lines
    assert any("cannot be read (workflow/suites/latin.yaml is not UTF-8 text" in line for line in lines)
    assert any(line.startswith("cifar ") for line in lines)


def test_list_prints_all_suites_and_show_prints_the_file(params_file: Path, rr: RunRr) -> None:
    lines = rr("suite", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)
    assert rr("suite", "show", "cifar").out == (params_file.parent / "workflow/suites/cifar.yaml").read_text()


def test_merge_combines_grids_and_leaves_the_file_unchanged(params_file: Path) -> None:
    before = params_file.read_bytes()
    contents = {name: suites.load_suite(name) for name in ("views", "heads", "labels")}
    merged = params.load_params(suites.merge_suites(contents, params_file))
    assert params_file.read_bytes() == before
    expected: set = set()
    for name in contents:
        suites.use_suite(name, params_file)
        single = params.load_params(params_file)
        expected |= set(grid.evaluations(single))
        assert all(merged.methods[method] == single.methods[method] for method in single.grid[0].method)
        params_file.write_bytes(before)
    evaluations = list(grid.evaluations(merged))
    assert set(evaluations) == expected
    assert len(evaluations) == len(expected)  # no duplicates of runs that suites share
    assert len(list(grid.pretrainings(merged))) == len({evaluation.pretraining for evaluation in expected})


def test_merge_of_different_variants_of_one_name_raises(params_file: Path) -> None:
    one, other = suites.load_suite("views"), suites.load_suite("views")
    other["methods"]["relational-k2"]["epochs"] = 3
    with pytest.raises(UserError, match=r"suites one and other define methods\.relational-k2 differently"):
        suites.merge_suites({"one": one, "other": other}, params_file)
    assert not (params_file.parent / ".rr").exists()


def test_merge_of_a_suite_that_changes_a_method_of_another_suite_raises(params_file: Path) -> None:
    grid_of_relational = suites.load_suite("smoke")["grid"] | {"method": ["relational"]}
    other_grid = grid_of_relational | {"method": ["random"]}
    change = {"grid": other_grid, "methods": {"relational": {"base": "relational", "gamma": 3.0}}}
    message = r"suite change changes methods\.relational, which suite first uses as it is in .*params\.yaml: give the"
    based_on_it = {"grid": other_grid, "methods": {"wide": {"base": "relational", "views": 8}}}
    for first in ({"grid": grid_of_relational}, based_on_it):
        for contents in ({"first": first, "change": change}, {"change": change, "first": first}):
            with pytest.raises(UserError, match=message):
                suites.merge_suites(contents, params_file)
    same = {"grid": grid_of_relational, "methods": change["methods"]}
    merged = params.load_params(suites.merge_suites({"same": same, "change": change}, params_file))
    assert merged.methods["relational"].gamma == 3.0


def test_suites_of_the_paper_have_its_settings(params_file: Path) -> None:
    """Compare epochs, K, M, seeds and learning rates with the paper's. STL-10 has 300 epochs, the others 200."""
    for name in ("cifar", "tiny-conv4", "tiny-resnet32", "slim", "stl10", "views", "labels", "heads"):
        before = params_file.read_bytes()
        suites.use_suite(name, params_file)
        loaded = params.load_params(params_file)
        params_file.write_bytes(before)
        assert loaded.grid[0].seed == [1, 2, 3]
        for method in (loaded.methods[key] for key in loaded.grid[0].method):
            if method.kind == "random":
                continue
            assert method.epochs == (300 if name == "stl10" else 200)
            assert method.batch_size == (64 if method.kind == "relational" else 128)
            assert method.learning_rate == {"supervised": 0.1, "infomax": 0.0001}.get(method.kind, 0.001)
            if method.kind == "relational" and name != "views":
                assert method.views == {"tiny-resnet32": 16, "stl10": 25}.get(name, 32)
