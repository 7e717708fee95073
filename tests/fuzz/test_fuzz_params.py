"""Fuzz test with corrupted parameters, suites and records: a command succeeds or ends with one message."""

import copy
import io
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from corruption import alter, alter_slightly, damage, rounds
from helpers import EVALUATE, EXTRACT, PRETRAIN, SMALL_PARAMS, Outcome, RunRr, add_dataset, write_params
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RepresenterError

pytestmark = pytest.mark.slow

PLAN = ("plan", "--views-per-second", "1000")


def dump_yaml(tree: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        YAML(typ="safe", pure=True).dump(tree, buffer)
    except (RecursionError, RepresenterError, YAMLError, UnicodeError, ValueError):
        return b"[" * 3000
    return buffer.getvalue()


def corrupt_yaml(tree: dict[str, Any], rng: random.Random) -> bytes:
    """Return `tree` as YAML, with slightly changed numbers, with changed values (40% each) or with damaged text."""
    choice = rng.random()
    if choice < 0.8:
        tree = copy.deepcopy(tree)
        (alter_slightly if choice < 0.4 else alter)(tree, rng)
        return dump_yaml(tree)
    text = dump_yaml(tree)
    position = rng.randrange(len(text))
    tokens = [b"\t", b": ", b"- ", b"{", b"]", b"&a ", b"*a", b"!!python/none ", b"'", b"\\", b"%", b"---\n", b"<<: "]
    return damage(text, rng) if rng.random() < 0.5 else text[:position] + rng.choice(tokens) + text[position:]


def run(rr: RunRr, number: int, *command: object) -> Outcome:
    """Run `rr`, which must succeed or end with one message and exit code 2."""
    try:
        outcome = rr(*command)
    except BaseException as error:
        raise AssertionError(f"round {number}: {type(error).__name__}: {error}") from error
    assert outcome.code in (0, 2), f"round {number}: {outcome}"
    assert (outcome.code == 2) == outcome.err.startswith("rr: "), f"round {number}: {outcome}"
    return outcome


def test_corrupted_params_are_used_or_raise(project: Path, rr: RunRr) -> None:
    accepted = 0
    for number, rng in rounds("params"):
        (project / "params.yaml").write_bytes(corrupt_yaml(SMALL_PARAMS, rng))
        accepted += run(rr, number, *PLAN).code == 0
    assert 0 < accepted < number
    assert [path.name for path in project.iterdir() if path.name != ".rr"] == ["params.yaml"]


def test_corrupted_suite_is_used_or_raises(project: Path, rr: RunRr) -> None:
    grid = {**SMALL_PARAMS["grid"], "method": ["random", "wide"]}
    suite = {"suites": {"some": {"grid": grid, "methods": {"wide": {"base": "relational", "views": 8}}}}}
    file, params = project / "workflow/suites/some.yaml", project / "params.yaml"
    file.parent.mkdir(parents=True)
    before = params.read_bytes()
    accepted = 0
    for number, rng in rounds("suites"):
        file.write_bytes(corrupt_yaml(suite, rng))
        command = (*PLAN, "some") if rng.random() < 0.5 else ("suite", "use", "some")
        is_accepted = run(rr, number, *command).code == 0
        if command[0] == "plan" or not is_accepted:
            assert params.read_bytes() == before, f"round {number}: params.yaml has changed"
        params.write_bytes(before)
        accepted += is_accepted
    assert 0 < accepted < number


def test_corrupted_record_raises(project_copy: Path, rr: RunRr) -> None:
    path = project_copy / "data/beton/shapes/run.json"
    text = path.read_bytes()
    assert run(rr, 0, "verify", "--allow-missing").code == 0
    for number, rng in rounds("records"):
        if rng.random() < 0.5:
            record = json.loads(text)
            alter(record, rng)
            try:
                path.write_text(json.dumps(record, default=str))
            except (ValueError, RecursionError, TypeError):
                continue
        else:
            path.write_bytes(damage(text, rng))
        with suppress(ValueError, RecursionError):
            if json.loads(path.read_bytes()) == json.loads(text):
                continue
        outcome = run(rr, number, "verify", "--allow-missing")
        assert outcome.code == 2, f"round {number}"
        assert "data/beton/shapes" in outcome.err, f"round {number}: {outcome.err}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [1, *a]", "nested too deeply, or an alias (*name) is inside the value that it refers to: remove"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 64)), "too large"),
        ("grid: !!python/object/apply:os.mkdir [x]", "is not valid YAML"),
        ("threads: " + "9" * 5000, "is not valid YAML"),
        ("\ufeff\x00", "is not valid YAML"),
        ("grid: 2026-01-01", "put dates in quotes"),
        ("{" * 100_000, "nested too deeply"),
    ],
    ids=["cycle", "bomb", "code", "digits", "no text", "date", "deep"],
)
def test_malicious_yaml_raises(project: Path, rr: RunRr, text: str, expected: str) -> None:
    (project / "params.yaml").write_text(text)
    outcome = rr(*PLAN)
    assert outcome.code == 2
    assert expected in outcome.err
    assert not (project / "x").exists()


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a\0b", "k" * 5000, "params.yaml/x", "\U0001f600"])
def test_invalid_source_path_raises(project: Path, rr: RunRr, kind: str, path: str) -> None:
    add_dataset(project, {"kind": kind, "path": path})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert outcome.err.startswith("rr: ")
    assert not list((project / "data").rglob("images*"))


@pytest.mark.parametrize(
    ("path", "value", "command", "expected"),
    [
        ("datasets.shapes.source.train", 10**12, ("fetch", "--dataset", "shapes"), "less than or equal to 1000000000"),
        ("methods.relational.epochs", 10**400, PLAN, "the number has more than 64 bits"),
        ("methods.relational.gamma", 1e300, PLAN, "less than or equal to 1000000"),
        (
            "methods.relational.batch_size",
            10**9,
            PRETRAIN,
            "",
        ),  # more than the number of images, so a mini-batch contains all of them
        ("datasets.shapes.std", [1e-300] * 3, PRETRAIN, "greater than or equal to 0.001"),
        (
            "datasets.shapes.std",
            [63.0, 62.1, 66.7],
            (*EVALUATE, "linear"),
            "less than or equal to 1",
        ),  # the std of pixel values from 0 to 255
        ("datasets.shapes.mean", [125.3, 123.0, 113.9], PRETRAIN, "less than or equal to 1"),
        ("protocols.linear.learning_rate", 1e6, (*EVALUATE, "linear"), ""),
        ("protocols.knn.temperature", 1e-300, (*EVALUATE, "knn"), ""),
        (
            "protocols.knn.neighbors",
            10**9,
            (*EVALUATE, "knn"),
            "exceeds the number of labeled training images in shapes (200)",
        ),
    ],
)
def test_extreme_number_is_used_or_raises(
    project_copy: Path, rr: RunRr, path: str, value: object, command: tuple[str, ...], expected: str
) -> None:
    def shorten(params: dict) -> None:
        params["methods"]["relational"].update(epochs=1, views=2)

    def change(params: dict) -> None:
        shorten(params)
        *sections, key = path.split(".")
        for section in sections:
            params = params[section]
        params[key] = value

    write_params(project_copy, shorten)
    if command[0] == "evaluate":
        assert rr(*PRETRAIN).code == 0
        assert rr(*EXTRACT).code == 0
    write_params(project_copy, change)
    outcome = rr(*command)
    assert outcome.code == (2 if expected else 0), outcome
    assert expected in outcome.err
    if expected:
        assert not list((project_copy / f"runs/{command[0]}").rglob("run.json")) or command[0] == "fetch"
